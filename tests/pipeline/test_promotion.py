"""Promotion through the graph and by hand: gates hold back, the pointer and the graph agree, automation does not undo a rollback."""

import dataclasses

import dagster as dg
import pytest
import stub_stages
from promotion_world import World, failure_of

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
def world(stubbed, instance, tmp_path):
    return World(instance, tmp_path)


def test_a_candidate_whose_gates_pass_is_promoted_in_the_same_run(world):
    world.make()
    result = world.run(CANDIDATE, PROMOTED)

    assert result.success
    assert (
        world.promoted == candidate_of(world.project).metadata["policy"] == recorded_version(world.instance, PROMOTED)
    )
    moved = ledger(world.project).current()
    assert moved.why == "all gates passed"
    assert moved.by.endswith(f"run {result.run_id}")
    shown = world.instance.get_latest_materialization_event(dg.AssetKey(PROMOTED)).asset_materialization.metadata
    assert shown["by"].value == moved.by
    assert "over_refusal_bound" in shown["gates"].value


def test_a_failed_gate_holds_the_promotion_back_and_says_why(world):
    world.make("timid")
    result = world.run(CANDIDATE, PROMOTED)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "over_refusal_bound")

    assert not result.success
    assert (check.passed, check.blocking) == (False, True)
    assert check.description == "embedded: 50.0% of the safe look-alikes refused, at most 15% wanted"
    assert world.promoted is None
    assert recorded_version(world.instance, PROMOTED) is None


def test_the_promotion_asks_the_gates_itself_when_it_is_started_alone(world):
    world.make("timid")
    result = world.run(PROMOTED)
    failure = next(
        e for e in result.all_events if e.event_type_value == "STEP_FAILURE"
    ).step_failure_data.user_failure_data

    assert not result.success
    assert failure.description.startswith("the promoted policy stays what it was: candidate ")
    assert "over_refusal_bound: embedded: 50.0%" in failure.description
    assert world.promoted is None


def test_a_run_by_hand_tells_a_failed_gate_as_a_warning(world):
    world.make("timid")
    defs = dg.Definitions(asset_checks=[stage_checks(CANDIDATE, world.project, gates_block=False)])
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=world.instance)

    assert result.success
    assert {e.check_name for e in result.get_asset_check_evaluations() if not e.passed} == {"over_refusal_bound"}


def test_a_policy_that_does_worse_on_the_same_prompts_is_not_promoted(world):
    world.make()
    world.run(CANDIDATE, PROMOTED)
    first = world.promoted
    world.make("fine worse", policy__steps=9)
    result = world.run(CANDIDATE, PROMOTED)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "no_regression")

    assert not check.passed
    assert "worse in refusal minus over refusal" in check.description
    assert world.promoted == first


def test_a_promise_broken_upstream_holds_the_promotion_back_too(world):
    world.make()
    config = world.project.config
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
    world.make("fine weak=reward_model_insult", rewards__epochs=3)
    failed = [
        gate.row()["gate"]
        for gate in judge_candidate(world.project, candidate_of(world.project))
        if not gate.verdict.passed
    ]
    assert failed == ["reward_model_insult accuracy_floor"]


def test_automation_promotes_once_and_leaves_a_rollback_alone(world):
    world.make()
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    first = world.promoted
    world.make(policy__steps=9)
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    assert world.promoted != first

    record(world.instance, ledger(world.project).rollback(by="ada", why="complaints"), world.project)
    assert [world.tick() for _ in range(3)] == [set(), set(), set()]
    assert world.promoted == first == recorded_version(world.instance, PROMOTED)

    world.make(policy__steps=10)
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(2)] == [{PROMOTED}, set()]


def test_automation_does_not_promote_again_what_a_person_went_back_from(world):
    promoted = []
    for steps in (8, 9):
        world.make(policy__steps=steps)
        assert world.run(CANDIDATE, PROMOTED).success
        promoted.append(world.promoted)
    world.make("timid", policy__steps=10)
    assert not world.run(CANDIDATE, PROMOTED).success
    back = ledger(world.project).rollback(by="ada@lab", why="B harms users")
    record(world.instance, back, world.project)

    world.make(policy__steps=9)  # the settings of what was left
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(3)] == [{PROMOTED}, set(), set()]
    assert world.promoted == promoted[0]
    said = failure_of(world.run(PROMOTED))
    assert f"ada@lab went back from policy {promoted[1]} to {promoted[0]} at {back.at} (B harms users)" in said
    assert f"`drirl promote --candidate {candidate_of(world.project).version}` promotes it by hand" in said

    ledger(world.project).promote(candidate_of(world.project).version, by="ada@lab", why="it was the data")
    assert world.run(PROMOTED).success
    assert world.promoted == promoted[1]


def test_an_experiment_is_promoted_by_a_person_alone(world):
    usual = world.make().project
    world.make(policy__steps=9)
    experiment, world.project = candidate_of(world.project), usual
    said = failure_of(world.run(PROMOTED))
    assert (
        f"candidate {experiment.version} was made with other settings than the present ones (policy_checkpoint: policy.steps: 9 -> "
        in said
    )
    assert world.promoted is None

    world.make()
    assert world.run(PROMOTED).success
    assert world.promoted == candidate_of(world.project).metadata["policy"] != experiment.metadata["policy"]


def test_data_that_came_while_a_policy_was_trained_make_it_no_experiment(world):
    world.make()
    (world.folder / "unsafe.jsonl").write_text("insult: you\nharm: them\nharm: all\n")
    assert world.run(PROMOTED).success
    assert world.promoted


def test_settings_that_gave_the_same_content_made_it_too(world):
    usual = world.make(prompts__near_duplicate=0.8).project
    world.make()
    pools = usual.store.records("prompt_pool")
    assert len({build["code_version"] for build in pools}) == 2
    assert len({build["version"] for build in pools}) == 1
    world.project = usual
    assert other_settings(usual, candidate_of(usual)) == []


def test_automation_starts_no_run_for_an_experiment(world, monkeypatch):
    usual = world.make().project
    monkeypatch.setattr(
        world,
        "definitions",
        lambda: dg.Definitions.merge(all_definitions(usual, None), dg.Definitions([promoted_policy(usual, OWNERS)])),
    )
    world.run(checks=world.gate_keys())
    assert PROMOTED in world.asked()

    world.make(policy__steps=9)
    world.project = usual
    world.run(checks=world.gate_keys())
    assert world.asked() == {
        "policy_checkpoint"
    }  # the settings of the definitions are due again, and the experiment is left alone

    stub_stages.build_and_record(world.instance, usual)
    world.run(checks=world.gate_keys())
    assert world.asked() == {PROMOTED}


def test_automation_does_not_promote_what_a_gate_holds_back(world):
    world.make("timid")
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(3)] == [set(), set(), set()]


def test_automation_can_be_left_out(world):
    world.make(promotion__automatic=False)
    world.run(checks=world.gate_keys())
    assert [world.tick() for _ in range(3)] == [set(), set(), set()]
    assert world.run(PROMOTED).success


def test_a_failed_gate_is_noticed_once_for_each_time_it_was_asked(world):
    world.make("timid")
    assert failed_since(world.instance, {}) == ([], {})
    world.run(checks=world.gate_keys())
    failed, seen = failed_since(world.instance, {})

    assert [(gate.gate, gate.description) for gate in failed] == [
        ("over_refusal_bound", "embedded: 50.0% of the safe look-alikes refused, at most 15% wanted")
    ]
    assert set(seen) == {key.name for key in world.gate_keys()}
    assert failed_since(world.instance, seen) == ([], seen)
    world.run(checks=world.gate_keys())
    assert [gate.gate for gate in failed_since(world.instance, seen)[0]] == ["over_refusal_bound"]


def test_a_regression_raises_one_alert(world):
    world.make()
    world.run(CANDIDATE, PROMOTED)
    world.make("fine worse", policy__steps=9)
    world.run(CANDIDATE)
    told = []
    sensor = gate_sensor(world.project.config, [told.append])
    cursor = None
    for _ in range(2):
        context = dg.build_sensor_context(instance=world.instance, cursor=cursor)
        sensor(context)
        cursor = context.cursor

    assert [(alert.kind, alert.facts["gate"]) for alert in told] == [("benchmark_regression", "no_regression")]
    assert "worse in refusal minus over refusal" in told[0].text
