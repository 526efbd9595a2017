"""Promotion, automatic and by hand: gates block, pointer and graph agree, automation does not undo a rollback."""

import dataclasses

import dagster as dg
import pytest
import stub_stages
from promotion_graph import PromotionGraph, failure_of

from drirl_core.checks.gates import candidate_of, judge_candidate
from drirl_core.graph.origin import other_settings
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE
from pipeline.wiring.asset_checks import stage_checks
from pipeline.wiring.factories import OWNERS, all_definitions
from pipeline.wiring.gate_watch import failed_since, gate_sensor
from pipeline.wiring.promoting import PROMOTED, ledger, promoted_policy, record
from pipeline.wiring.resolve import recorded_version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def graph(stubbed, instance, tmp_path):
    return PromotionGraph(instance, tmp_path)


def test_a_candidate_whose_gates_pass_is_promoted_in_the_same_run(graph):
    graph.make()
    result = graph.run(CANDIDATE, PROMOTED)

    assert result.success
    assert (
        graph.promoted == candidate_of(graph.project).metadata["policy"] == recorded_version(graph.instance, PROMOTED)
    )
    moved = ledger(graph.project).current()
    assert moved.why == "all gates passed"
    assert moved.by.endswith(f"run {result.run_id}")
    shown = graph.instance.get_latest_materialization_event(dg.AssetKey(PROMOTED)).asset_materialization.metadata
    assert shown["by"].value == moved.by
    assert "over_refusal_bound" in shown["gates"].value


def test_a_failed_gate_blocks_the_promotion_and_says_why(graph):
    graph.make("timid")
    result = graph.run(CANDIDATE, PROMOTED)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "over_refusal_bound")

    assert not result.success
    assert (check.passed, check.blocking) == (False, True)
    assert check.description == "embedded: 50.0% of the safe look-alikes refused, at most 15% wanted"
    assert graph.promoted is None
    assert recorded_version(graph.instance, PROMOTED) is None


def test_the_promotion_evaluates_the_gates_itself_when_it_is_started_alone(graph):
    graph.make("timid")
    result = graph.run(PROMOTED)
    failure = next(
        e for e in result.all_events if e.event_type_value == "STEP_FAILURE"
    ).step_failure_data.user_failure_data

    assert not result.success
    assert failure.description.startswith("the promoted policy stays what it was: candidate ")
    assert "over_refusal_bound: embedded: 50.0%" in failure.description
    assert graph.promoted is None


def test_a_run_by_hand_reports_a_failed_gate_as_a_warning(graph):
    graph.make("timid")
    defs = dg.Definitions(asset_checks=[stage_checks(CANDIDATE, graph.project, gates_block=False)])
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=graph.instance)

    assert result.success
    assert {e.check_name for e in result.get_asset_check_evaluations() if not e.passed} == {"over_refusal_bound"}


def test_a_policy_that_is_worse_on_the_same_prompts_is_not_promoted(graph):
    graph.make()
    graph.run(CANDIDATE, PROMOTED)
    first = graph.promoted
    graph.make("fine worse", policy__steps=9)
    result = graph.run(CANDIDATE, PROMOTED)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "no_regression")

    assert not check.passed
    assert "worse in refusal minus over refusal" in check.description
    assert graph.promoted == first


def test_a_failed_check_upstream_blocks_the_promotion_too(graph):
    graph.make()
    config = graph.project.config
    strict = Project(dataclasses.replace(config, checks=dataclasses.replace(config.checks, min_accuracy=1.0)))
    weak = judge_candidate(strict, candidate_of(strict))
    assert all(gate.verdict.passed for gate in weak)
    assert {gate.asset for gate in weak} >= {
        CANDIDATE,
        "prompt_pool",
        "safety_dataset_harm",
        "reward_model_insult",
        "policy_checkpoint",
    }
    graph.make("fine weak=reward_model_insult", rewards__epochs=3)
    failed = [
        gate.row()["gate"]
        for gate in judge_candidate(graph.project, candidate_of(graph.project))
        if not gate.verdict.passed
    ]
    assert failed == ["reward_model_insult accuracy_floor"]


def test_automation_promotes_once_and_does_not_undo_a_rollback(graph):
    graph.make()
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    first = graph.promoted
    graph.make(policy__steps=9)
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    assert graph.promoted != first

    record(graph.instance, ledger(graph.project).rollback(by="ada", why="complaints"), graph.project)
    assert [graph.tick() for _ in range(3)] == [set(), set(), set()]
    assert graph.promoted == first == recorded_version(graph.instance, PROMOTED)

    graph.make(policy__steps=10)
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(2)] == [{PROMOTED}, set()]


def test_automation_does_not_promote_again_what_a_person_rolled_back(graph):
    promoted = []
    for steps in (8, 9):
        graph.make(policy__steps=steps)
        assert graph.run(CANDIDATE, PROMOTED).success
        promoted.append(graph.promoted)
    graph.make("timid", policy__steps=10)
    assert not graph.run(CANDIDATE, PROMOTED).success
    back = ledger(graph.project).rollback(by="ada@lab", why="B harms users")
    record(graph.instance, back, graph.project)

    graph.make(policy__steps=9)  # the settings of the policy that was rolled back
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    assert graph.promoted == promoted[0]
    said = failure_of(graph.run(PROMOTED))
    assert f"ada@lab went back from policy {promoted[1]} to {promoted[0]} at {back.at} (B harms users)" in said
    assert f"`drirl promote --candidate {candidate_of(graph.project).version}` promotes it by hand" in said

    ledger(graph.project).promote(candidate_of(graph.project).version, by="ada@lab", why="it was the data")
    assert graph.run(PROMOTED).success
    assert graph.promoted == promoted[1]


def test_only_a_person_promotes_an_experiment(graph):
    usual = graph.make().project
    graph.make(policy__steps=9)
    experiment, graph.project = candidate_of(graph.project), usual
    said = failure_of(graph.run(PROMOTED))
    assert (
        f"candidate {experiment.version} was made with other settings than the present ones (policy_checkpoint: policy.steps: 9 -> "
        in said
    )
    assert graph.promoted is None

    graph.make()
    assert graph.run(PROMOTED).success
    assert graph.promoted == candidate_of(graph.project).metadata["policy"] != experiment.metadata["policy"]


def test_data_that_arrived_during_training_do_not_make_a_policy_an_experiment(graph):
    graph.make()
    (graph.folder / "unsafe.jsonl").write_text("insult: you\nharm: them\nharm: all\n")
    assert graph.run(PROMOTED).success
    assert graph.promoted


def test_settings_with_the_same_result_do_not_make_a_policy_an_experiment(graph):
    usual = graph.make(prompts__near_duplicate=0.8).project
    graph.make()
    pools = usual.store.records("prompt_pool")
    assert len({build["code_version"] for build in pools}) == 2
    assert len({build["version"] for build in pools}) == 1
    graph.project = usual
    assert other_settings(usual, candidate_of(usual)) == []


@pytest.mark.long
def test_automation_starts_no_run_for_an_experiment(graph, monkeypatch):
    usual = graph.make().project
    monkeypatch.setattr(
        graph,
        "definitions",
        lambda: dg.Definitions.merge(all_definitions(usual, None), dg.Definitions([promoted_policy(usual, OWNERS)])),
    )
    graph.run(checks=graph.gate_keys())
    assert PROMOTED in graph.asked()

    graph.make(policy__steps=9)
    graph.project = usual
    graph.run(checks=graph.gate_keys())
    assert graph.asked() == {
        "policy_checkpoint"
    }  # the settings of the definitions are built again, and the experiment is not touched

    stub_stages.build_and_record(graph.instance, usual)
    graph.run(checks=graph.gate_keys())
    assert graph.asked() == {PROMOTED}


def test_automation_does_not_promote_what_a_gate_blocks(graph):
    graph.make("timid")
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(3)] == [set(), set(), set()]


def test_automation_can_be_switched_off(graph):
    graph.make(promotion__automatic=False)
    graph.run(checks=graph.gate_keys())
    assert [graph.tick() for _ in range(3)] == [set(), set(), set()]
    assert graph.run(PROMOTED).success


def test_a_failed_gate_is_noticed_once_per_evaluation(graph):
    graph.make("timid")
    assert failed_since(graph.instance, {}) == ([], {})
    graph.run(checks=graph.gate_keys())
    failed, seen = failed_since(graph.instance, {})

    assert [(gate.gate, gate.description) for gate in failed] == [
        ("over_refusal_bound", "embedded: 50.0% of the safe look-alikes refused, at most 15% wanted")
    ]
    assert set(seen) == {key.name for key in graph.gate_keys()}
    assert failed_since(graph.instance, seen) == ([], seen)
    graph.run(checks=graph.gate_keys())
    assert [gate.gate for gate in failed_since(graph.instance, seen)[0]] == ["over_refusal_bound"]


def test_a_regression_raises_one_alert(graph):
    graph.make()
    graph.run(CANDIDATE, PROMOTED)
    graph.make("fine worse", policy__steps=9)
    graph.run(CANDIDATE)
    told = []
    sensor = gate_sensor(graph.project.config, [told.append])
    cursor = None
    for _ in range(2):
        context = dg.build_sensor_context(instance=graph.instance, cursor=cursor)
        sensor(context)
        cursor = context.cursor

    assert [(alert.kind, alert.facts["gate"]) for alert in told] == [("benchmark_regression", "no_regression")]
    assert "worse in refusal minus over refusal" in told[0].text
