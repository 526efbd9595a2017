"""Two rounds in Dagster and in the plan: the assets, what they depend on, what they cost, and what a change makes anew."""

import dagster as dg
import pytest
import stub_stages

from drirl_core.graph.build import run_all
from drirl_core.graph.estimates import estimate, estimates
from drirl_core.graph.plan import plan
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load
from pipeline.wiring.factories import all_definitions

TWO = {"rewards.rounds": 2}


@pytest.fixture
def two(project, tmp_path):
    """The project of stub stages with a second round."""
    return load(tmp_path / "stub.yaml", TWO)


def test_dagster_knows_the_assets_of_a_round_and_what_they_need(two):
    graph = all_definitions(two).resolve_asset_graph()
    for name, node in two.graph.nodes.items():
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}
        assert parents == set(node.inputs), name
    groups = {name: graph.get(dg.AssetKey(name)).group_name for name in two.graph.nodes if name.startswith("round_1_")}
    assert set(groups.values()) == {"rewards", "policy", "completions"}
    assert groups["round_1_policy"] == "policy" and groups["round_1_completion_pool_helpful"] == "completions"
    checks = {key.asset_key.to_user_string() for key in graph.asset_check_keys}
    assert {"round_1_reward_model_harm", "round_1_policy"} <= checks


@pytest.mark.long  # a worker process per step
@pytest.mark.timeout(900)
def test_a_run_makes_each_of_them_in_order(stubbed, home, two):
    with dg.DagsterInstance.get() as instance:
        result = (
            all_definitions(two, gates_block=False)
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(instance=instance)
        )
    assert result.success
    made = [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]
    order = ["completion_pool_harm", "round_1_reward_model_harm", "round_1_policy", "round_1_completion_pool_harm"]
    order += ["reward_model_harm", "policy_checkpoint"]
    assert [name for name in made if name in order] == order
    assert plan(two).up_to_date


def test_a_second_round_keeps_the_start_and_costs_what_its_like_cost(stubbed, project, two):
    """Seen before it ever ran: its policy as the final one, its pools by their samples, two per prompt in place of four."""
    run_all(project, SilentReporter())
    stub_stages.spend(project.store, {"policy_checkpoint": (60.0, 1000), "completion_pool_harm": (8.0, 40)})
    found = plan(two)
    states = {name: asset.state for name, asset in found.assets.items()}
    assert {states[name] for name in ("sft_checkpoint", "completion_pool_harm", "prompt_pool")} == {"up_to_date"}
    pending = {name for name in states if name.startswith(("round_1", "reward_model", "hardness", "policy"))}
    assert not {states[name] for name in pending} & {"up_to_date"}
    assert "round_1_completion_pool_harm is a new input" in found.assets["reward_model_harm"].why
    costs = estimates(found, two)
    assert (costs["round_1_policy"].seconds, costs["round_1_policy"].tokens) == (60.0, 1000)
    assert costs["round_1_policy"].how == "1 build of policy_checkpoint"
    assert costs["round_1_policy"].last is None
    pool = costs["round_1_completion_pool_harm"]
    assert (pool.seconds, pool.tokens, pool.scaled) == (4.0, 20, ("rewards.round_samples",))
    assert pool.how == "1 build of completion_pool_harm, scaled by rewards.round_samples"
    assert costs["round_1_reward_model_harm"].how == "1 build of reward_model_harm"


def test_builds_of_its_own_count_before_those_of_its_like(stubbed, two):
    run_all(two, SilentReporter())
    stub_stages.spend(two.store, {"policy_checkpoint": (60.0, 1000), "round_1_policy": (7.0, 100)})
    cost = estimates(plan(two), two)["round_1_policy"]
    assert (cost.seconds, cost.how) == (7.0, "1 build")


def test_another_budget_of_its_like_says_nothing(project, two):
    node = two.graph.nodes["round_1_policy"]
    record = {"metadata": {"seconds": 9.0}, "config": {"policy": {"num_generations": 64}}}
    from drirl_core.config import resolved

    found = estimate(node, [record], resolved(two.config), like="policy_checkpoint")
    assert found.seconds is None
    assert found.how.startswith("never ran here, and policy_checkpoint ran only with other settings: ")


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"rewards.round_samples": 3}, "round_1_completion_pool_harm"),
        ({"policy.kl": 0.5}, "round_1_policy"),
        ({"rewards.beta": 2.0}, "round_1_reward_model_harm"),
    ],
)
def test_a_change_makes_anew_what_depends_on_it(stubbed, two, tmp_path, change, first):
    run_all(two, SilentReporter())
    order = ("round_1_reward_model_harm", "round_1_policy", "round_1_completion_pool_harm", "reward_model_harm")
    found = plan(load(tmp_path / "stub.yaml", {**TWO, **change}))
    states = {name: found.assets[name].pending for name in order}
    begin = order.index(first)
    assert states == {name: place >= begin for place, name in enumerate(order)}
    assert not found.assets["completion_pool_harm"].pending


def test_one_more_round_and_back_again(stubbed, project, two):
    """What one round made is there again, and what the second made is kept."""
    run_all(two, SilentReporter())
    run_all(project, SilentReporter())
    assert plan(two).up_to_date
    assert plan(project).up_to_date
