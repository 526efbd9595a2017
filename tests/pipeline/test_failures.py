"""Alerts on failed runs: real runs of stub stages, and runs whose process was killed."""

import dataclasses
import json
import uuid

import dagster as dg
import pytest
import stub_stages

from drirl_core.config import AlertsConfig
from pipeline.instance.settings import load
from pipeline.running.owner import OWNER_TAG, owner_tag
from pipeline.running.run import heal
from pipeline.wiring.factories import all_definitions
from pipeline.wiring.failures import failure_sensor

DATA = ("prompt_pool", "safety_dataset_insult", "safety_dataset_harm", "helpful_dataset")


@dg.op
def rest():
    """Do nothing."""


@dg.job
def idle():
    """A job for runs that never reach their steps."""
    rest()


class Watch:
    """Runs on the instance of the project, the sensor, and the alerts it raised."""

    def __init__(self, instance, folder):
        self.instance, self.folder, self.alerts, self.cursor = instance, folder, [], None
        config = load(stub_stages.write_settings(folder)).config
        quiet = AlertsConfig(hooks=())
        self.sensor = failure_sensor(_with_alerts(config, quiet), [self.alerts.append])
        self.tick()  # a new sensor begins with the runs after it

    def run(self, *names, behaviour="stub", **settings):
        job = all_definitions(
            load(stub_stages.write_settings(self.folder, name=behaviour)), retry=None
        ).resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(name) for name in names]
        return job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=False, **settings)

    def made_before(self, *names):
        stub_stages.build_and_record(self.instance, load(stub_stages.write_settings(self.folder)), *names)

    def tick(self):
        """Evaluate the sensor once, as the daemon does, and return the alerts of this tick."""
        self.alerts.clear()
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        assert not data.run_requests
        assert [reaction.error for reaction in data.dagster_run_reactions or [] if reaction.error] == []
        return list(self.alerts)


def _with_alerts(config, alerts):
    return dataclasses.replace(config, operations=dataclasses.replace(config.operations, alerts=alerts))


@pytest.fixture
def watch(stubbed, home, tmp_path):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield Watch(instance, tmp_path)


def test_a_failed_stage_is_reported_once_with_its_own_message(watch):
    failed = watch.run("prompt_pool", behaviour="fail=prompt_pool")
    (alert,) = watch.tick()

    assert not failed.success
    assert alert.kind == "run_failed"
    assert alert.title == f"run {failed.run_id[:8]} failed at prompt_pool"
    assert alert.text == "prompt_pool: row 3 of prompt_pool has no prompt; fix the file and run again"
    assert alert.facts == {
        "run_id": failed.run_id,
        "job": "__ASSET_JOB",
        "steps": ["prompt_pool"],
        "assets": ["prompt_pool"],
        "retried": False,
    }
    assert watch.tick() == []


def test_runs_that_succeed_or_are_cancelled_raise_nothing(watch):
    assert idle.execute_in_process(instance=watch.instance).success
    run = watch.instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED)
    watch.instance.report_run_canceled(run, "Stopped by the user.")

    assert watch.tick() == []


def test_several_failed_steps_are_all_named(watch):
    watch.made_before(*DATA)
    failed = watch.run("sft_checkpoint", "balance_report", behaviour="fail=balance_report crash=sft_checkpoint")
    (alert,) = watch.tick()

    assert not failed.success
    assert set(alert.facts["steps"]) == {"balance_report", "sft_checkpoint"}
    assert "balance_report: row 3 of balance_report has no prompt" in alert.text
    assert "sft_checkpoint: unexpected ZeroDivisionError: a bug (stub_stages.py, line " in alert.text
    assert "Traceback" not in alert.text


def test_a_blocking_check_is_reported_with_its_finding(watch):
    watch.made_before(*DATA, "sft_checkpoint", "completion_pool_insult")
    failed = watch.run("reward_model_insult", behaviour="weak=reward_model_insult")
    (alert,) = watch.tick()

    assert not failed.success
    assert alert.title == f"run {failed.run_id[:8]} failed at reward_model_insult (accuracy_floor)"
    assert alert.text.startswith("reward_model_insult accuracy_floor: ")


@pytest.mark.long
def test_a_failed_step_of_the_command_line_is_on_its_screen_and_raises_no_alert(watch):
    """A run that the web page starts again from it takes over its tags, but has no screen."""
    run_id = str(uuid.uuid4())
    tags = {OWNER_TAG: owner_tag(run_id)}
    assert not watch.run("prompt_pool", behaviour="fail=prompt_pool", run_id=run_id, tags=tags).success
    assert watch.tick() == []
    again = watch.run("prompt_pool", behaviour="fail=prompt_pool", tags=tags)
    assert [alert.facts["run_id"] for alert in watch.tick()] == [again.run_id]


def test_a_run_whose_process_died_is_reported_without_a_step(watch):
    dead = json.dumps({**json.loads(owner_tag()), "started": "1"})
    run = watch.instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED, tags={OWNER_TAG: dead})
    assert heal(watch.instance) == [run.run_id]
    (alert,) = watch.tick()

    assert alert.title == f"run {run.run_id[:8]} failed outside of its steps"
    assert alert.text == "Marked as failed: the process that ran this run is gone."
    assert alert.facts["steps"] == []
    assert alert.facts["run_id"] == run.run_id
    assert watch.tick() == []


def test_a_run_ended_from_outside_says_why_and_that_it_is_retried(watch):
    run = watch.instance.create_run_for_job(idle, status=dg.DagsterRunStatus.STARTED)
    watch.instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    watch.instance.report_run_failed(
        watch.instance.get_run_by_id(run.run_id), "Exceeded maximum runtime of 86400 seconds."
    )
    (alert,) = watch.tick()

    assert alert.text == "Exceeded maximum runtime of 86400 seconds."
    assert alert.facts["retried"] is True


def test_a_run_that_could_not_start_says_why(watch):
    @dg.resource
    def broken(_):
        raise ValueError("no connection to the store")

    @dg.job(resource_defs={"store": broken})
    def job():
        dg.op(required_resource_keys={"store"}, name="needs_store")(lambda _: None)()

    failed = job.execute_in_process(instance=watch.instance, raise_on_error=False)
    (alert,) = watch.tick()

    assert not failed.success
    assert "no connection to the store" in alert.text


def test_a_hook_that_fails_does_not_fail_the_sensor(watch):
    def broken(alert):
        raise RuntimeError("no")

    watch.sensor = failure_sensor(load(stub_stages.write_settings(watch.folder)).config, [broken, watch.alerts.append])
    watch.run("prompt_pool", behaviour="fail=prompt_pool")

    assert len(watch.tick()) == 1
