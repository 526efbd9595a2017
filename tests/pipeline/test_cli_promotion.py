"""`drirl promote`, `rollback` and `promotions`: the pointer and the graph move together, or the user is told what is missing."""

import dagster as dg
import pytest
import stub_stages
from promotion_world import World
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.lib.promoting import PROMOTED
from pipeline.lib.resolve import recorded_version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def world(stubbed, instance, tmp_path):
    return World(instance, tmp_path)


def test_the_command_line_promotes_shows_and_rolls_back(world, home):
    world.make()
    file = str(world.folder / "stub.yaml")

    def call(*words, code=0):
        result = CliRunner().invoke(app, [*words, "--config", file])
        assert result.exit_code == code, result.output
        return result.output

    assert "No policy is promoted yet" in call("promotions")
    assert "gates pass; `drirl promote` makes it the promoted policy" in call("promote", "--check")
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
