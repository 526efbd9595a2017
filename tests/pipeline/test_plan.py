"""What a run would do, told from the store: without Dagster, with the reason for each asset."""

import subprocess
import sys

import pytest
import stub_stages
from conftest import ROOT

from drirl_core import stages
from drirl_core.artifacts import ArtifactStore
from drirl_core.errors import ConfigError, DataError
from drirl_core.reporting import SilentReporter
from pipeline.lib.plan import plan
from pipeline.lib.settings import load


@pytest.fixture
def made(stubbed, config):
    """A configuration whose whole road is built."""
    stages.run_all(config, SilentReporter())
    return config


def _states(planned) -> dict[str, set[str]]:
    states: dict[str, set[str]] = {}
    for asset in planned.assets.values():
        states.setdefault(asset.state, set()).add(asset.name)
    return states


def test_at_first_everything_has_to_be_made(config):
    planned = plan(config)

    assert _states(planned) == {"will_run": set(stages.build_graph(config).nodes)}
    assert {asset.why for asset in planned.assets.values()} == {"not made yet"}
    assert not planned.up_to_date


def test_after_a_run_nothing_is_left_to_do(made):
    planned = plan(made)

    assert planned.up_to_date
    assert planned.pending == []
    assert planned.assets["report"].version == ArtifactStore(made.root).latest("report").version


def test_a_changed_source_makes_its_reader_run_and_the_rest_perhaps(made, tmp_path):
    (tmp_path / "unsafe.jsonl").write_text("insult: you\nharm: them\nharm: us\n")
    planned = plan(made)

    assert _states(planned) == {"will_run": {"prompt_pool"}, "may_run": set(planned.assets) - {"prompt_pool"}}
    assert planned.assets["prompt_pool"].why == "changed: source_unsafe"
    assert planned.assets["safety_dataset_harm"].why == "depends on prompt_pool"


def test_a_changed_setting_names_itself_as_the_reason(made, tmp_path):
    config = load(tmp_path / "stub.yaml", {"hardness.sharpness": 2.0})
    planned = plan(config)

    assert _states(planned)["will_run"] == {"hardness_insult", "hardness_harm"}  # the policy depends on them
    assert planned.assets["hardness_insult"].why == "its settings changed"
    assert _states(planned)["may_run"] == {"policy_checkpoint", "benchmark_embedded", "promotion_candidate", "report", "model_card"}


def test_a_new_algorithm_is_told_from_a_new_setting(made, monkeypatch):
    import dataclasses

    monkeypatch.setitem(stages.STAGES, "model_card", dataclasses.replace(stages.STAGES["model_card"], version="next"))

    assert plan(made).assets["model_card"].why == "its algorithm changed"


def test_going_back_to_former_settings_needs_no_run(made, tmp_path):
    other = load(tmp_path / "stub.yaml", {"rewards.epochs": 3})
    stages.run_all(other, SilentReporter())

    assert plan(other).up_to_date
    assert plan(made).up_to_date


def test_a_damaged_artifact_is_made_again(made):
    store = ArtifactStore(made.root)
    next(store.latest("reward_model_harm").path.glob("*.parquet")).unlink()
    planned = plan(made)

    assert (planned.assets["reward_model_harm"].state, planned.assets["reward_model_harm"].why) == (
        "will_run",
        "its artifact was removed or damaged",
    )
    assert planned.assets["reward_model_insult"].state == "up_to_date"


def test_a_selection_brings_what_it_needs_and_no_more(config):
    planned = plan(config, ["safety_dataset_*"])

    assert set(planned.assets) == {"prompt_pool", "safety_dataset_insult", "safety_dataset_harm"}


def test_an_unknown_name_is_answered_with_the_nearest(config):
    with pytest.raises(ConfigError, match=r"'reward_model_insults' is no asset.*did you mean 'reward_model_insult'"):
        plan(config, ["reward_model_insults"])


def test_only_the_sources_that_are_needed_must_exist(config, tmp_path):
    (tmp_path / "helpful.jsonl").unlink()

    assert plan(config, ["safety_dataset_harm"]).pending
    with pytest.raises(DataError, match=r"helpful\.jsonl cannot be read"):
        plan(config)


def test_planning_needs_no_dagster(config, tmp_path):
    code = "import sys, pipeline.lib.plan; print('dagster' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_the_stub_road_keeps_every_promise(made):
    """The stubs stand for the real stages in other tests, so their artifacts must pass the real rules."""
    from pipeline.lib.checks import broken_promises

    graph, store = stages.build_graph(made), ArtifactStore(made.root)
    broken = {name: broken_promises(node, store.latest(name).version, made) for name, node in graph.nodes.items()}

    assert {name: problems for name, problems in broken.items() if problems} == {}
    assert stub_stages.SPLITS.count("train") == 2
