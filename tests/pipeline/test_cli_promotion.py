"""`drirl promote`, `rollback` and `promotions` move pointer and graph together, or say what is missing."""

import json
import shutil
import sqlite3

import dagster as dg
import pytest
import stub_stages
from promotion_graph import PromotionGraph
from typer.testing import CliRunner

from drirl_core.checks.gates import candidate_of
from pipeline.cli.common import Given, output
from pipeline.cli.main import app
from pipeline.cli.promote import command, show_outlook
from pipeline.instance.home import POSTGRES_SETTINGS, POSTGRES_VARIABLE
from pipeline.wiring import promoting
from pipeline.wiring.promoting import PROMOTED, ledger
from pipeline.wiring.resolve import recorded_version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def graph(stubbed, instance, tmp_path):
    return PromotionGraph(instance, tmp_path)


@pytest.fixture
def call(graph):
    """Call the command line with the configuration of the graph and return its output."""

    def invoke(*words, code=0):
        result = CliRunner().invoke(app, [*words, "--config", str(graph.folder / "stub.yaml")])
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.output

    return invoke


@pytest.fixture
def promoted(graph, home):
    """Promote three policies, one after the other, and return their versions, oldest first."""
    versions = []
    for steps in (8, 9, 10):
        graph.make(policy__steps=steps)
        ledger(graph.project).promote(candidate_of(graph.project).version, by="ada", why="better")
        versions.append(graph.promoted)
    return versions


def test_the_command_line_promotes_shows_and_rolls_back(graph, home, call):
    graph.make()
    file = graph.folder / "stub.yaml"
    assert f"No policy is promoted yet. `drirl promote {file} --check` evaluates the gates" in call("promotions")
    assert json.loads(call("promotions", "--json")) == {
        "store": graph.project.store.place, "promoted": None, "history": [],
    }  # fmt: skip
    assert f"gates pass; `drirl promote {file}` makes it the promoted policy" in call("promote", "--check")
    version = candidate_of(graph.project).version
    assert f"`drirl promote {file} --candidate {version}` makes it" in call(
        "promote", "--check", "--candidate", version
    )
    assert "all gates passed" in call("promote")
    first = graph.promoted
    graph.make("timid", policy__steps=9)
    stub_stages.write_settings(graph.folder, policy={"steps": 9})
    assert "FAIL  over_refusal_bound" in call("promote", code=1)
    assert graph.promoted == first
    assert "the history must say why" in call("promote", "--force", code=1)
    assert "overruled: over_refusal_bound" in call("promote", "--force", "--why", "red team")
    assert graph.promoted != first
    assert f"rolled back to {first}" in call("rollback", "--why", "complaints")
    history = call("promotions")
    assert history.index("rolled back") < history.index("red team") < history.index("all gates passed")
    document = json.loads(call("promotions", "--json"))
    assert document["promoted"]["policy"] == first
    assert [entry["action"] for entry in document["history"]] == ["rollback", "promote", "promote"]
    assert {gate["gate"] for gate in document["history"][1]["gates"] if not gate["passed"]} == {"over_refusal_bound"}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert recorded_version(instance, PROMOTED) == first


def test_the_promotion_command_printed_by_a_run_names_configuration_and_candidate(graph, capsys):
    graph.make(policy__steps=9)
    version = candidate_of(graph.project).version
    file = graph.folder / "my file.yaml"
    shutil.copy(graph.folder / "stub.yaml", file)
    show_outlook(Given(file, ("policy.steps=9",)), version, output())
    expected = f"drirl promote '{file}' --set policy.steps=9 --candidate {version}"
    assert f"`{expected}`" in capsys.readouterr().out
    assert command(Given()) == "drirl promote"


def test_promote_takes_the_candidate_of_the_configuration_and_not_the_newest(graph, call):
    usual = graph.make(policy__steps=8).project
    own = candidate_of(usual).version
    graph.make(policy__steps=9)
    newest = candidate_of(graph.project).version
    assert usual.store.latest("promotion_candidate").version == newest != own
    stub_stages.write_settings(graph.folder, policy={"steps": 8})
    assert f"Candidate {own}, " in call("promote", "--check")
    assert f"Candidate {newest}, " in call("promote", "--check", "--set", "policy.steps=9")
    assert "there is no promotion_candidate of this configuration" in call(
        "promote", "--check", "--set", "policy.steps=10", code=1
    )


def test_a_home_that_cannot_be_used_moves_nothing(graph, promoted, home, call, monkeypatch):
    before = ledger(graph.project).history()
    monkeypatch.setenv("DAGSTER_HOME", "relative/home")
    for words in (
        ["rollback", "--why", "complaints"],
        ["promote", "--force", "--why", "x", "--candidate", promoted[0]],
    ):
        assert "DAGSTER_HOME is 'relative/home', but must be an absolute path" in call(*words, code=1)
    assert ledger(graph.project).history() == before

    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert f"rolled back to {promoted[1]}" in call("rollback", "--why", "complaints")


@pytest.mark.long
def test_a_database_that_is_down_moves_nothing(graph, promoted, home, call, monkeypatch):
    pytest.importorskip("dagster_postgres")
    pytest.importorskip("psycopg2")
    before = ledger(graph.project).history()
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1:1/dagster")
    (home / "dagster.yaml").write_text((home / "dagster.yaml").read_text() + POSTGRES_SETTINGS)
    said = call("rollback", "--why", "complaints", code=1)

    assert "the database that DRIRL_POSTGRES_URL names cannot be used" in said
    assert "sesame" not in said
    assert ledger(graph.project).history() == before


def test_a_move_that_dagster_did_not_record_is_reported_as_moved(graph, promoted, home, call, monkeypatch):
    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error")

    stub_stages.write_settings(graph.folder, name="fine", policy={"steps": 10})
    with monkeypatch.context() as patch:
        patch.setattr(promoting, "record", broken)
        said = call("rollback", "--why", "complaints", code=1)
    moved = ledger(graph.project).current()
    assert moved.policy == promoted[1]
    assert "the pointer DID move, so do not move it again: " in said
    assert f"rolled back to {promoted[1]}" in said
    assert "Dagster has not recorded this move" in said
    assert "cannot be written (disk I/O error)" in said
    again = f"drirl promote {graph.folder / 'stub.yaml'} --candidate {moved.candidate}"
    assert f"`{again}` records it in Dagster and moves nothing" in said

    call("promote", "--candidate", moved.candidate)
    assert ledger(graph.project).current() == moved
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert recorded_version(instance, PROMOTED) == promoted[1]


def test_the_history_is_shown_although_the_promoted_policy_is_gone(graph, promoted, call):
    shutil.rmtree(graph.project.store.root / "policy_checkpoint" / promoted[2])
    said = call("promotions")
    assert f"Promoted policy {promoted[2]}: its files cannot be opened" in said
    assert f"promoted {promoted[0]} by ada" in said
