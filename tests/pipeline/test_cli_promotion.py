"""`drirl promote`, `rollback` and `promotions`: the pointer and the graph move together, or the user is told what is missing."""

import shutil
import sqlite3

import dagster as dg
import pytest
import stub_stages
from promotion_world import World
from typer.testing import CliRunner

from drirl_core.checks.gates import candidate_of
from pipeline.cli.common import DEFAULT_CONFIG, output
from pipeline.cli.main import app
from pipeline.cli.promote import command, show_outlook
from pipeline.instance.home import POSTGRES_SETTINGS, POSTGRES_VARIABLE
from pipeline.wiring import promoting
from pipeline.wiring.promoting import PROMOTED, ledger
from pipeline.wiring.resolve import recorded_version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def world(stubbed, instance, tmp_path):
    return World(instance, tmp_path)


@pytest.fixture
def call(world):
    """Call the command line with the world's configuration and return what it prints."""

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, [*words, "--config", str(world.folder / "stub.yaml")])
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    return invoke


@pytest.fixture
def promoted(world, home):
    """Promote three policies, one after the other, and return their versions, the first one first."""
    versions = []
    for steps in (8, 9, 10):
        world.make(policy__steps=steps)
        ledger(world.project).promote(candidate_of(world.project).version, by="ada", why="better")
        versions.append(world.promoted)
    return versions


def test_the_command_line_promotes_shows_and_rolls_back(world, home, call):
    world.make()
    file = world.folder / "stub.yaml"
    assert f"No policy is promoted yet. `drirl promote --check --config {file}` asks the gates" in call("promotions")
    assert f"gates pass; `drirl promote --config {file}` makes it the promoted policy" in call("promote", "--check")
    version = candidate_of(world.project).version
    assert f"`drirl promote --config {file} --candidate {version}` makes it" in call(
        "promote", "--check", "--candidate", version
    )
    assert "all gates passed" in call("promote")
    first = world.promoted
    world.make("timid", policy__steps=9)
    stub_stages.write_settings(world.folder, policy={"steps": 9})
    assert "FAIL  over_refusal_bound" in call("promote", code=1)
    assert world.promoted == first
    assert "the history must say why" in call("promote", "--force", code=1)
    assert "overruled: over_refusal_bound" in call("promote", "--force", "--why", "red team")
    assert world.promoted != first
    assert f"rolled back to {first}" in call("rollback", "--why", "complaints")
    history = call("promotions")
    assert history.index("rolled back") < history.index("red team") < history.index("all gates passed")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert recorded_version(instance, PROMOTED) == first


def test_what_a_run_says_of_the_promotion_names_the_configuration_and_the_candidate(world, capsys):
    world.make(policy__steps=9)
    version = candidate_of(world.project).version
    show_outlook(world.folder / "my file.yaml", world.project, version, output())
    assert f"`drirl promote --config '{world.folder}/my file.yaml' --candidate {version}`" in capsys.readouterr().out
    assert command(DEFAULT_CONFIG) == "drirl promote"


def test_a_home_that_cannot_be_used_moves_nothing(world, promoted, home, call, monkeypatch):
    before = ledger(world.project).history()
    monkeypatch.setenv("DAGSTER_HOME", "relative/home")
    for words in (
        ["rollback", "--why", "complaints"],
        ["promote", "--force", "--why", "x", "--candidate", promoted[0]],
    ):
        assert "DAGSTER_HOME is 'relative/home', but must be an absolute path" in call(*words, code=1)
    assert ledger(world.project).history() == before

    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert f"rolled back to {promoted[1]}" in call("rollback", "--why", "complaints")


def test_a_database_that_is_away_moves_nothing(world, promoted, home, call, monkeypatch):
    pytest.importorskip("dagster_postgres")
    pytest.importorskip("psycopg2")
    before = ledger(world.project).history()
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1:1/dagster")
    (home / "dagster.yaml").write_text((home / "dagster.yaml").read_text() + POSTGRES_SETTINGS)
    said = call("rollback", "--why", "complaints", code=1)

    assert "the database that DRIRL_POSTGRES_URL names cannot be used" in said
    assert "sesame" not in said
    assert ledger(world.project).history() == before


def test_a_move_that_the_graph_was_not_told_of_is_no_failed_move(world, promoted, home, call, monkeypatch):
    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error")

    stub_stages.write_settings(world.folder, name="fine", policy={"steps": 10})
    with monkeypatch.context() as patch:
        patch.setattr(promoting, "record", broken)
        said = call("rollback", "--why", "complaints", code=1)
    moved = ledger(world.project).current()
    assert moved.policy == promoted[1]
    assert "the pointer DID move, so do not move it again: " in said
    assert f"rolled back to {promoted[1]}" in said
    assert "The graph lacks this move" in said
    assert "cannot be written (disk I/O error)" in said
    again = f"drirl promote --config {world.folder / 'stub.yaml'} --candidate {moved.candidate}"
    assert f"`{again}` adds it to the graph and moves nothing" in said

    call("promote", "--candidate", moved.candidate)
    assert ledger(world.project).current() == moved
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert recorded_version(instance, PROMOTED) == promoted[1]


def test_the_history_is_shown_although_the_promoted_policy_is_gone(world, promoted, call):
    shutil.rmtree(world.project.store.root / "policy_checkpoint" / promoted[2])
    said = call("promotions")
    assert f"Promoted policy {promoted[2]}: its files cannot be opened" in said
    assert f"promoted {promoted[0]} by ada" in said
