"""What a pending asset will cost, estimated from earlier builds: their median, scaled only where that is valid."""

import copy
import dataclasses
from typing import Any

import pytest
import stub_stages

from drirl_core.config import Config, resolved
from drirl_core.config.slices import covers
from drirl_core.graph.build import run_all
from drirl_core.graph.estimates import Build, estimate, estimates, totals
from drirl_core.graph.layout import Node
from drirl_core.graph.plan import plan
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter, amount
from pipeline.instance.settings import load


def _record(
    config: Config, seconds: float, tokens: float | None = None, changes: dict[str, Any] | None = None, **metadata: Any
) -> dict:
    values = copy.deepcopy(resolved(config))
    for dotted, value in (changes or {}).items():
        *parents, last = dotted.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    spent = {} if tokens is None else {"tokens": tokens}
    return {"version": "v", "used_at": 1.0, "metadata": {"seconds": seconds, **spent, **metadata}, "config": values}


def _node(config: Config, name: str) -> Node:
    return Project(config).graph.nodes[name]


def test_the_median_of_the_last_five_builds(config):
    records = [_record(config, seconds, 10 * seconds) for seconds in (5, 1, 3, 2, 4, 1000, 1000)]
    found = estimate(_node(config, "policy_checkpoint"), records, resolved(config))

    assert (found.seconds, found.tokens, found.builds, found.scaled) == (3, 30, 5, ())
    assert found.how == "median of 5 builds"
    assert found.last == Build(5, 50)


@pytest.mark.parametrize(
    ("name", "setting", "before", "factor"),
    [
        ("policy_checkpoint", "policy.steps", 6, 4),
        ("sft_checkpoint", "sft.epochs", 1.0, 2),
        ("reward_model_harm", "rewards.epochs", 20, 3),
        ("completion_pool_harm", "completions.samples", {"base": 1}, 4),
    ],
)
def test_a_cost_proportional_to_a_setting_is_scaled_and_says_so(config, name, setting, before, factor):
    """The present values: 24 steps, 2 epochs, 60 epochs, 2 + 2 samples."""
    found = estimate(_node(config, name), [_record(config, 10.0, 100, {setting: before})], resolved(config))

    assert (found.seconds, found.scaled) == (10.0 * factor, (setting,))
    assert found.tokens == (0 if name.startswith("reward") else 100 * factor)
    assert found.how == f"1 build, scaled by {setting}"


def test_samples_to_choose_from_are_scaled_by_their_number(config):
    """Eight in place of two; where other things decide the cost, nothing is said."""
    config = dataclasses.replace(config, baselines=("best_of_n",))
    node, now = _node(config, "best_of_n_embedded"), resolved(config)
    found = estimate(node, [_record(config, 10.0, 100, {"benchmarks.best_of": 2})], now)
    assert (found.seconds, found.tokens, found.scaled) == (40.0, 400, ("benchmarks.best_of",))
    longer = _record(config, 10.0, 100, {"benchmarks.max_new_tokens": 9})
    assert estimate(node, [longer], now).how == "ran only with other settings: benchmarks.max_new_tokens = 9"


def test_a_pool_is_scaled_by_the_prompts_of_its_settled_data_set(config):
    record = _record(config, 10.0, 100, prompts=4)
    found = estimate(_node(config, "completion_pool_harm"), [record], resolved(config), prompts=6)

    assert (found.seconds, found.tokens, found.scaled) == (15.0, 150, ("prompts",))


def test_a_build_with_other_cost_settings_is_not_used(config):
    node, now = _node(config, "policy_checkpoint"), resolved(config)
    other = _record(config, 999.0, changes={"policy.num_generations": 64})
    found = estimate(node, [other], now)

    assert (found.seconds, found.builds, found.how) == (
        None,
        0,
        "ran only with other settings: policy.num_generations = 64",
    )
    assert found.last == Build(999.0, None)
    assert estimate(node, [other, _record(config, 7.0)], now).seconds == 7.0


@pytest.mark.parametrize(
    ("change", "comparable"), [("models.policy", False), ("models.threads", False), ("models.cache", True)]
)
def test_builds_with_another_model_or_device_are_not_used(config, change, comparable):
    record = _record(config, 7.0, changes={change: "other"})

    assert (estimate(_node(config, "policy_checkpoint"), [record], resolved(config)).seconds == 7.0) is comparable


def test_a_build_from_before_a_setting_counts_while_the_setting_has_its_default(config):
    node, record = _node(config, "policy_checkpoint"), _record(config, 7.0)
    del record["config"]["policy"]["trl"]
    now = resolved(config)
    assert estimate(node, [record], now).seconds == 7.0
    now["policy"]["trl"] = {"use_vllm": True}
    assert estimate(node, [record], now).seconds is None


def test_a_benchmark_from_before_a_setting_of_its_suite_counts_while_the_setting_has_its_default(config):
    node, record = _node(config, f"benchmark_{config.benchmarks.suites[0].name}"), _record(config, 7.0)
    for suite in record["config"]["benchmarks"]["suites"]:
        del suite["prefill"], suite["of"]
    now = resolved(config)
    assert estimate(node, [record], now).seconds == 7.0
    now["benchmarks"]["suites"][0] |= {"prefill": "Sure, here is", "of": "embedded", "name": "other"}
    assert estimate(_node(config, node.name), [record], now).seconds is None


def test_settings_that_cost_nothing_do_not_matter(config):
    changes = {"policy.learning_rate": 1.0, "policy.kl": 0.5, "rewards.epochs": 1, "name": "other"}
    found = estimate(_node(config, "policy_checkpoint"), [_record(config, 7.0, changes=changes)], resolved(config))

    assert (found.seconds, found.scaled) == (7.0, ())


def test_records_without_cost_or_settings(config):
    node, now = _node(config, "policy_checkpoint"), resolved(config)
    older = {key: value for key, value in _record(config, 7.0).items() if key != "config"}

    assert (
        estimate(node, [], now).how == estimate(node, [{"version": "v", "used_at": 1.0}], now).how == "never ran here"
    )
    assert (estimate(node, [older], now).seconds, estimate(node, [older], now).tokens) == (7.0, None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_cost_follows_settings_that_exist_and_decide_the_stage(config, stage):
    cost = STAGES[stage].cost
    for name in (*cost.proportional, *cost.decisive):
        value = resolved(config)
        for key in name.removesuffix("[{member}]").split("."):
            value = value[key]
        assert covers(STAGES[stage].config, name.removesuffix("[{member}]"))


def test_another_limit_of_its_own_suite_is_not_used_and_that_of_others_does_not_matter(config):
    node = _node(config, "benchmark_embedded")
    own, others = ([{"name": "embedded", "limit": 3}], [{"name": "embedded"}, {"name": "other", "limit": 3}])
    before = resolved(config)["benchmarks"]["suites"][0]
    records = {
        name: _record(config, 7.0, changes={"benchmarks.suites": [{**before, **suite} for suite in suites]})
        for name, suites in (("own", own), ("others", others))
    }

    assert estimate(node, [records["own"]], resolved(config)).seconds is None
    assert estimate(node, [records["others"]], resolved(config)).seconds == 7.0


def test_a_plan_is_added_up(stubbed, project, tmp_path):
    run_all(project, SilentReporter())
    stub_stages.spend(
        project.store, {"policy_checkpoint": (60.0, 1000), "benchmark_embedded": (10.0, 300), "report": (1.0, None)}
    )
    changed = load(
        tmp_path / "stub.yaml",
        {"policy.steps": 48, "benchmarks.suites": [{"name": "embedded"}, {"name": "own", "path": project.config.root}]},
    )
    planned = plan(changed, ["policy_checkpoint", "benchmark_*", "report"])
    cost = totals(planned, estimates(planned, changed))

    assert planned.assets["policy_checkpoint"].state == "will_run"
    assert cost.most_seconds >= 131.0
    assert (cost.tokens, cost.most_tokens) == (
        2000,
        2300,
    )  # the new suite repeats no training prompt, so no data set may run
    assert cost.never_ran == ("benchmark_own",)
    assert str(cost).startswith("about 2 min 0")
    assert str(cost).endswith("1 asset never ran here")


def test_a_pool_works_through_no_more_prompts_than_it_may(stubbed, project, tmp_path):
    """The data set has four prompts, of which one training prompt and one of each other split get completions."""
    run_all(project, SilentReporter())
    limited = load(tmp_path / "stub.yaml", {"completions.prompts": 1, "hardness.refresh": "step"})
    name = "completion_pool_harm"
    before, now = (estimates(plan(found), found)[name] for found in (project, limited))

    assert now.scaled == ("prompts",)
    assert now.seconds == pytest.approx(before.seconds * 3 / 4)


def test_the_costs_of_a_plan_copy_nothing_from_an_object_store(stubbed, tmp_path):
    settings = stub_stages.write_settings(tmp_path, root=f"file://{tmp_path}/shared", mirror=str(tmp_path / "a"))
    run_all(load(settings), SilentReporter())
    there = load(settings, {"mirror": str(tmp_path / "b"), "completions.temperature": 0.9})
    planned = plan(there)

    assert planned.assets["completion_pool_harm"].state == "will_run"
    assert estimates(planned, there)
    assert not list(there.store.root.glob("*/*/manifest.json"))


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (950, "950"), (1234, "1.2k"), (310_400, "310k"), (3_140_000, "3.1M")]
)
def test_large_numbers_are_written_in_words(number, text):
    assert amount(number) == text
