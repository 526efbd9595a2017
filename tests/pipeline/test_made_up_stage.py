"""A stage is one record and one function; everything else reads them."""

import dagster as dg
import pyarrow as pa
import pytest
import stub_stages

from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.config import resolved
from drirl_core.errors import CheckError
from drirl_core.graph.build import run_all
from drirl_core.graph.estimates import estimate
from drirl_core.graph.plan import plan
from drirl_core.graph.record import Cost, MainTable, Stage
from drirl_core.graph.stages import STAGES
from drirl_core.reporting import SilentReporter
from drirl_core.store.tables import write_table
from pipeline.instance.settings import load
from pipeline.wiring.display import pipes_metadata
from pipeline.wiring.factories import all_definitions

ECHOES = [f"echo_{category}" for category in ("insult", "harm", "helpful")]


def build_echo(context):
    """Write the category once per policy step."""
    rows = [{"said": context.category}] * context.config.policy.steps
    write_table(context.out / "echo.parquet", rows, pa.schema([("said", pa.string())]))
    return {"tokens": len(rows)}


def _loud(path, project, node):
    return Verdict(node.category != project.config.name, f"{node.category} was heard")


CHECKS = (Rule("loud", "It can be heard.", _loud),)


@pytest.fixture
def echo(stubbed, monkeypatch):
    """The record of a stage that no other code mentions."""
    record = Stage(
        f"{__name__}:build_echo",
        "1",
        ("policy.steps",),
        "echoes",
        heavy=True,
        per="category",
        inputs=("dataset", "policy_checkpoint"),
        description="Echo of {member}.",
        table=MainTable("echo.parquet", {"said": "what was said"}),
        cost=Cost(("policy.steps",), tokens=True),
        checks=f"{__name__}:CHECKS",
    )
    monkeypatch.setitem(STAGES, "echo", record)


@pytest.fixture
def project(echo, tmp_path):
    return load(stub_stages.write_settings(tmp_path))


def test_it_is_in_the_graph_with_its_own_inputs(project):
    nodes = {node.name: node for node in project.graph.of("echo")}

    assert list(nodes) == ECHOES
    assert nodes["echo_harm"].inputs == ("safety_dataset_harm", "policy_checkpoint")
    assert (nodes["echo_harm"].category, nodes["echo_harm"].description) == ("harm", "Echo of harm.")


def test_it_is_planned_built_and_estimated(project, tmp_path):
    assert [plan(project).assets[name].why for name in ECHOES] == ["not made yet"] * 3
    run_all(project, SilentReporter())
    assert plan(project).up_to_date
    changed = load(tmp_path / "stub.yaml", {"policy.steps": 48})
    assert plan(changed).assets["echo_harm"].why.startswith("policy.steps: 24 -> 48")
    node, records = changed.graph.nodes["echo_harm"], project.store.records("echo_harm")
    assert estimate(node, records, resolved(changed.config)).tokens == 48


def test_dagster_shows_it_with_its_table(project):
    defs = all_definitions(project)
    graph = defs.resolve_asset_graph()
    spec = graph.get(dg.AssetKey("echo_harm"))
    run_all(project, SilentReporter())
    shown = pipes_metadata("echo", project.store.latest("echo_harm"), {}, reused=False)

    assert (spec.group_name, spec.tags["drirl/category"]) == ("echoes", "harm")
    assert {key.to_user_string() for key in spec.parent_keys} == {"safety_dataset_harm", "policy_checkpoint"}
    assert "echo_by_category" in {asset.op.name for asset in defs.assets}
    assert shown["dagster/row_count"]["raw_value"] == 24
    assert shown["dagster/column_schema"]["raw_value"]["columns"][0]["description"] == "what was said"


def test_its_checks_are_dagsters_and_those_of_a_plain_run(project, tmp_path):
    checks = all_definitions(project).resolve_asset_graph().asset_check_keys
    assert {key.asset_key.to_user_string() for key in checks if key.name == "loud"} == set(ECHOES)
    with pytest.raises(CheckError, match="echo_harm breaks loud: harm was heard"):
        run_all(load(stub_stages.write_settings(tmp_path, name="harm")), SilentReporter())
