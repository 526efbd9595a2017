"""`run_pipeline`: stale assets are built, the rest is reused, and every outcome is reported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import stub_stages
from filelock import FileLock
from paths import FOLDER, ROOT
from waiting import wait_for

from drirl_core.checks.asking import rules_of
from drirl_core.errors import ArtifactError, ModelError
from drirl_core.graph.build import run_all
from drirl_core.graph.plan import plan
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load
from pipeline.running.owner import OWNER_TAG, owner_tag
from pipeline.running.run import LOCK_FILE, run_pipeline
from pipeline.wiring.resolve import recorded_version

DATASETS = ["safety_dataset_insult", "safety_dataset_harm", "helpful_dataset"]


class Runner:
    """Runs of one home and one folder of settings, with the events of the last run."""

    def __init__(self, home: Path, folder: Path):
        self.home, self.folder, self.events = home, folder, []

    def __call__(self, *select: str, behaviour: str = "stub", **overrides):
        self.events = []
        path = stub_stages.write_settings(self.folder, name=behaviour)
        changes = {key.replace("__", "."): value for key, value in overrides.items()}
        return run_pipeline(path, select=list(select) or None, overrides=changes, on_event=self.events.append)

    def of(self, kind: str) -> list:
        return [event for event in self.events if event.kind == kind]

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))


@pytest.fixture
def runner(stubbed, home, tmp_path):
    """A runner with stub stages."""
    return Runner(home, tmp_path)


def test_a_run_belongs_to_the_code_location_so_that_the_overview_lists_it(runner):
    """The overview leaves out a run without an origin; this one is named as a run from the web page would be."""
    outcome = runner("prompt_pool")
    with runner.instance() as instance:
        run = instance.get_run_by_id(outcome.run_id)
        listed = instance.get_runs(dg.RunsFilter(tags={".dagster/repository": "__repository__@drirl"}))
    origin = run.remote_job_origin

    assert [one.run_id for one in listed] == [outcome.run_id]
    assert (origin.location_name, origin.repository_origin.repository_name) == ("drirl", "__repository__")
    assert origin.job_name == run.job_name == "__ASSET_JOB"
    assert run.status is dg.DagsterRunStatus.SUCCESS


def test_what_was_built_is_not_built_again(runner):
    first = runner("balance_report")
    second = runner("balance_report")

    assert first.success
    assert set(first.built) == {"prompt_pool", *DATASETS, "balance_report"}
    assert (second.success, second.run_id, second.built, second.reused) == (True, None, (), ())
    assert second.plan.up_to_date
    assert runner.events == []
    with runner.instance() as instance:
        assert len(instance.get_runs()) == 1
        assert instance.get_run_by_id(first.run_id).tags["drirl/config"] == "stub"
        assert recorded_version(instance, "balance_report") == second.plan.assets["balance_report"].version


@pytest.mark.long
def test_only_stale_refreshes_what_exists_and_builds_nothing_new(runner):
    runner("safety_dataset_insult")
    nothing = runner("stale")
    (runner.folder / "unsafe.jsonl").write_text("insult: other\nharm: them\n")
    outcome = runner("stale")

    assert (nothing.success, nothing.run_id) == (True, None)
    assert outcome.success
    assert outcome.built == ["prompt_pool", "safety_dataset_insult"]


@pytest.mark.long
def test_a_changed_bound_repeats_the_check_without_a_build(runner):
    weak = "weak=reward_model_harm"
    failed = runner("reward_model_harm", behaviour=weak)
    strict = runner("reward_model_harm", behaviour=weak)
    lenient = runner("reward_model_harm", behaviour=weak, checks__min_accuracy=0.0)

    assert (failed.success, strict.success, strict.built) == (False, False, ())
    assert (lenient.success, lenient.built, lenient.reused) == (True, (), ())


def _weak(runner):
    """Build the graph with a weak reward model, under a bound that lets it pass."""
    settings = stub_stages.write_settings(runner.folder, name="weak=reward_model_insult")
    run_all(load(settings, {"checks.min_accuracy": 0.0}), SilentReporter())
    return load(settings)


@pytest.mark.parametrize("name", ["policy", "encoder"])
def test_a_missing_model_stops_the_run_before_anything_is_built(runner, tmp_path, name):
    with pytest.raises(ModelError, match=r"nowhere is not a directory; give the directory that holds config\.json"):
        runner("balance_report", **{f"models__{name}": f"path:{tmp_path}/nowhere"})
    assert runner.events == []
    with runner.instance() as instance:
        assert instance.get_runs() == []


@pytest.mark.slow
def test_the_complete_graph_passes_its_checks(runner):
    outcome = runner()
    checks = {(event.asset, event.data["check"]): event.data["passed"] for event in runner.of("check")}

    assert outcome.success
    assert set(outcome.built) == set(outcome.plan.assets)
    assert checks.pop(("benchmark_embedded", "over_refusal")) is False  # a warning, which fails nothing
    assert checks.pop(("promotion_candidate", "over_refusal_bound")) is False  # a run by hand promotes nothing
    assert set(checks.values()) == {True}
    assert {asset for asset, _ in checks} >= {
        *DATASETS,
        "prompt_pool",
        "reward_model_helpful",
        "sft_checkpoint",
        "policy_checkpoint",
    }


def test_events_are_reported_in_order(runner):
    runner("prompt_pool")
    told = [(event.kind, event.asset) for event in runner.events]

    assert told == [
        ("step_start", None),
        ("log", None),
        ("materialized", "prompt_pool"),
        ("step_start", None),
        *[("check", "prompt_pool")] * len(rules_of("prompt_pool")),
    ]
    assert [event.message for event in runner.of("log")] == ["pool is ready"]
    assert runner.of("materialized")[0].data["metadata"]["prompts"] == 2


def test_a_failed_stage_is_an_outcome_with_its_message(runner):
    outcome = runner("balance_report", behaviour="fail=safety_dataset_insult")

    assert not outcome.success
    assert outcome.failures == [
        "safety_dataset_insult: row 3 of safety_dataset_insult has no prompt; fix the file and run again\n"
        "helpful_dataset: helpful_dataset needs safety_dataset_insult, which has not been materialized"
    ]
    assert set(outcome.built) == {"prompt_pool", "safety_dataset_harm"}
    assert not outcome.cancelled


def test_the_same_error_of_all_categories_is_one_message_with_its_cause_first(runner):
    outcome = runner("balance_report", behaviour="ill=safety_dataset")

    cause = "demonstrations.csv has no column 'demonstration'"
    assert not outcome.success
    assert "\n".join(outcome.failures).count(cause) == 1
    assert outcome.failures[0].startswith(
        f"{cause}\n  The same in 2 assets: safety_dataset_insult, safety_dataset_harm\nhelpful_dataset: "
    )
    logged = [event.message for event in runner.of("log") if "failed" in event.message]
    assert logged[:2] == [
        f"[safety_dataset_insult] failed: {cause}",
        "[safety_dataset_harm] failed with the same error as safety_dataset_insult",
    ]


@pytest.mark.long
def test_categories_in_steps_of_their_own_give_one_message_too(runner):
    outcome = runner(*DATASETS, behaviour="ill=safety_dataset", execution__category_steps="apart")

    assert sum("has no column" in message for message in outcome.failures) == 1
    cause, assets = outcome.failures[0].splitlines()
    assert cause == "demonstrations.csv has no column 'demonstration'"
    assert assets.startswith("  The same in 2 assets: ")
    assert set(assets.partition(": ")[2].split(", ")) == {"safety_dataset_insult", "safety_dataset_harm"}


@pytest.mark.long
def test_the_next_run_does_only_what_the_failed_one_left(runner):
    runner("balance_report", behaviour="fail=safety_dataset_insult")
    outcome = runner("balance_report")

    assert outcome.success
    assert set(outcome.built) == {"safety_dataset_insult", "helpful_dataset", "balance_report"}


@pytest.mark.long
def test_a_failed_blocking_check_stops_the_next_run_as_well(runner):
    """The artifact exists, so it is reused; its check runs again, and what depends on it still waits."""
    project = _weak(runner)
    card = project.config.root + "/hardness_insult"
    os.rename(card, card + ".away")
    outcome = runner("hardness_insult", behaviour="weak=reward_model_insult")

    assert not outcome.success
    assert "reward_model_insult" in outcome.reused
    assert "hardness_insult" not in outcome.built
    assert [
        m for m in outcome.failures if m.startswith("reward_model_insult accuracy_floor: the demonstration wins 0.0%")
    ]


def test_a_failed_check_with_nothing_left_to_do_is_a_failure_without_a_run(runner):
    project = _weak(runner)
    with runner.instance() as instance:
        for asset in plan(project).assets.values():
            instance.report_runless_asset_event(
                dg.AssetMaterialization(asset.name, tags={"dagster/data_version": asset.version})
            )
    outcome = runner(behaviour="weak=reward_model_insult")

    assert (outcome.success, outcome.run_id) == (False, None)
    assert outcome.failures[0].startswith("reward_model_insult breaks accuracy_floor: the demonstration wins 0.0%")


@pytest.mark.long
def test_going_back_to_former_data_records_the_former_version(runner):
    """Both results are in the store, so nothing is built; the graph must show the current one."""
    runner("prompt_pool")
    source, versions = runner.folder / "unsafe.jsonl", []
    for text in ("insult: you\nharm: them\n", "insult: other\nharm: them\n", "insult: you\nharm: them\n"):
        source.write_text(text)
        outcome = runner("prompt_pool")
        with runner.instance() as instance:
            versions.append(recorded_version(instance, "prompt_pool"))

    assert versions[0] == versions[2] != versions[1]
    assert (outcome.built, outcome.reused) == ([], ["prompt_pool"])


@pytest.mark.long
def test_the_sources_are_recorded_so_that_nothing_looks_stale_afterwards(runner):
    runner("prompt_pool")
    with runner.instance() as instance:
        observed = instance.fetch_observations(dg.AssetKey("source_unsafe"), limit=1).records[0].asset_observation
        made = instance.get_latest_materialization_event(dg.AssetKey("prompt_pool")).asset_materialization

    assert made.tags["dagster/input_data_version/source_unsafe"] == observed.tags["dagster/data_version"]


def test_a_second_run_at_the_same_time_is_refused_and_names_the_first(runner):
    lock = FileLock(runner.home / LOCK_FILE)
    with lock:
        (runner.home / f"{LOCK_FILE}.json").write_text(
            json.dumps({"pid": 4711, "since": time.time(), "config": "demo"})
        )
        with pytest.raises(
            ArtifactError,
            match=r"a run is in progress in .*: process 4711 with the configuration 'demo', since .*kill 4711",
        ):
            runner("prompt_pool")
        (runner.home / f"{LOCK_FILE}.json").write_text("")
        with pytest.raises(ArtifactError, match="another process; wait for it or stop it"):
            runner("prompt_pool")


@pytest.mark.long
def test_a_run_whose_process_was_killed_is_closed_by_the_next_one(runner):
    dead = json.dumps({**json.loads(owner_tag()), "started": "1"})

    @dg.job
    def job():
        pass

    with runner.instance() as instance:
        runs = [
            instance.create_run_for_job(job, status=getattr(dg.DagsterRunStatus, status), tags=tags).run_id
            for status, tags in (
                ("NOT_STARTED", {OWNER_TAG: dead}),
                ("STARTED", {OWNER_TAG: dead}),
                ("CANCELING", {OWNER_TAG: dead}),
                ("STARTED", {OWNER_TAG: owner_tag()}),
                ("STARTED", {}),
            )
        ]
    runner("prompt_pool")
    with runner.instance() as instance:
        statuses = [instance.get_run_by_id(run).status.value for run in runs]

    assert statuses == ["FAILURE", "FAILURE", "FAILURE", "STARTED", "STARTED"]


def test_a_pool_slot_that_a_finished_run_kept_is_released(runner):
    """A process that is killed while it closes a dead run leaves the run finished but its slot taken."""

    @dg.job
    def job():
        pass

    with runner.instance() as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("gpu")
        over, alive = (
            instance.create_run_for_job(job, status=status, tags={OWNER_TAG: owner_tag()}).run_id
            for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)
        )
        assert storage.claim_concurrency_slot("gpu", over, "step").is_claimed
        assert not storage.claim_concurrency_slot("gpu", alive, "step").is_claimed
    runner("prompt_pool")
    with runner.instance() as instance:
        pool = instance.event_log_storage.get_concurrency_info("gpu")

    assert {place.run_id for place in (*pool.claimed_slots, *pool.pending_steps)} == {alive}


@pytest.mark.long
def test_a_listener_that_fails_stops_the_run(runner):
    def listener(event):
        raise RuntimeError("the terminal is gone")

    path = stub_stages.write_settings(runner.folder, name="sleep=prompt_pool")
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run_pipeline(path, on_event=listener)
    with runner.instance() as instance:
        assert [run.status.value for run in instance.get_runs()] == ["CANCELED"]


@pytest.mark.long
def test_ctrl_c_stops_the_worker_and_counts_as_cancelled(home, tmp_path):
    settings = stub_stages.write_settings(tmp_path, name="sleep=prompt_pool")
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(FOLDER)!r}]
import stub_stages; stub_stages.install()
from pipeline.running import launch; launch.WORKER = "stub_worker"
from pipeline.running.run import run_pipeline
outcome = run_pipeline({str(settings)!r}, on_event=lambda event: None)
print(outcome.cancelled, outcome.success, outcome.failures)
"""
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    line = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-c",
        code,
    ]  # a background shell makes its children ignore Ctrl-C
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True)
    pid_file = wait_for(lambda: next((tmp_path / "artifacts" / ".work").glob("*/scratch/pid"), None))
    pid = int(wait_for(pid_file.read_text))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]

    assert said == "True False []\n"
    assert wait_for(
        lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["CANCELED"]
