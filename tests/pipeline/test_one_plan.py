"""`drirl run` plans once, lays out the graph once and opens the store once; what it tells comes from that one plan."""

import sys

import dagster as dg
import pytest
import stub_stages
from typer.testing import CliRunner

from drirl_core.graph.layout import build_graph
from drirl_core.graph.plan import plan
from drirl_core.store.artifacts import ArtifactStore
from pipeline.cli import promote, report, run  # noqa: F401 - they import what is counted
from pipeline.cli.main import app
from pipeline.instance.settings import load
from pipeline.running import run as running  # noqa: F401


def count(monkeypatch, function) -> list:
    """Put a counting function in the place of another, wherever it was imported; return the calls."""
    calls: list = []

    def counted(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    for module in list(sys.modules.values()):
        for name in [name for name, value in list(vars(module).items()) if value is function]:
            monkeypatch.setattr(module, name, counted)
    return calls


@pytest.fixture
def counts(monkeypatch):
    """How often a command planned, laid out a graph and opened a store."""
    planned, laid_out = count(monkeypatch, plan), count(monkeypatch, build_graph)
    opened: list = []
    plain = ArtifactStore.of
    monkeypatch.setattr(ArtifactStore, "of", lambda config: opened.append(config) or plain(config))
    return lambda: (len(planned), len(laid_out), len(opened))


@pytest.fixture
def settings(stubbed, home, tmp_path, monkeypatch):
    """Settings whose complete graph is made and recorded; the stub report has no page to show."""
    file = stub_stages.write_settings(tmp_path)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        stub_stages.build_and_record(instance, load(file))
    monkeypatch.setattr(report, "show", lambda artifact, console: console.print(f"report {artifact.version}"))
    return file


def drirl(*words) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_of_everything_plans_once_and_shows_report_and_gates(settings, counts):
    said = drirl("run", settings)

    assert counts() == (1, 1, 1)
    assert "Nothing to do: everything is up to date" in said
    assert f"report {load(settings).store.latest('report').version}" in said
    assert "Promotion: " in said


def test_a_run_of_what_is_stale_plans_once_and_makes_it(settings, counts):
    nothing = drirl("run", settings, "--only", "stale")
    before = counts()
    made = drirl("run", settings, "--only", "stale", "--set", "name=other")

    assert "Nothing to do: what --only names is up to date" in nothing
    assert "Promotion: " in nothing
    assert before == (1, 1, 1)
    assert "Done: 2 assets built" in made
    assert counts() == (2, 2, 2)
    assert f"report {load(settings).store.latest('report').version}" in made


def test_a_plan_of_what_is_stale_plans_once(settings, counts):
    drirl("plan", settings, "--only", "stale", "--set", "policy.steps=48")

    assert counts() == (1, 1, 1)
