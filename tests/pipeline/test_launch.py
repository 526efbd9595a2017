"""A Dagster step and its worker process: results, failures, missing inputs, reuse, retries."""

import base64
import os
import subprocess
import sys
import time

import dagster as dg
import pytest
import stub_stages
from paths import ROOT

from drirl_core.store.artifacts import ArtifactStore
from pipeline.instance.settings import load
from pipeline.wiring.factories import all_definitions

DATA = ("prompt_pool", "safety_dataset_insult", "safety_dataset_harm", "helpful_dataset")


class Runner:
    """Materialize assets of a configuration in this process, with one instance."""

    def __init__(self, instance, tmp_path):
        self.instance, self.folder = instance, tmp_path

    def __call__(self, *names: str, behaviour: str = "stub", **changes):
        self.project = load(stub_stages.write_settings(self.folder, name=behaviour, **changes))
        job = all_definitions(self.project, retry=None).resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(name) for name in names]
        return job.execute_in_process(instance=self.instance, asset_selection=keys, raise_on_error=False)

    def made_before(self, *names: str, behaviour: str = "stub") -> None:
        """Build assets without Dagster and record them, as an earlier run would have."""
        stub_stages.build_and_record(
            self.instance, load(stub_stages.write_settings(self.folder, name=behaviour)), *names
        )

    def latest(self, name: str) -> dg.AssetMaterialization:
        return self.instance.get_latest_materialization_event(dg.AssetKey(name)).asset_materialization

    def lines(self, result) -> list[str]:
        return [entry.user_message for entry in self.instance.all_logs(result.run_id) if entry.dagster_event is None]


@pytest.fixture
def run(stubbed, instance, tmp_path):
    """A runner whose worker has the stub stages."""
    return Runner(instance, tmp_path)


def _failure(result, step: str) -> dg.Failure:
    event = next(e for e in result.all_events if e.event_type_value == "STEP_FAILURE" and e.step_key == step)
    return event.step_failure_data.user_failure_data


def test_an_asset_is_reported_with_version_numbers_and_log_lines(run):
    result = run("prompt_pool")
    shown = run.latest("prompt_pool")
    published = ArtifactStore(run.project.config.root).latest("prompt_pool")

    assert result.success
    assert shown.tags["dagster/data_version"] == published.version
    assert shown.metadata["version"].value == published.version
    assert shown.metadata["path"].value == str(published.path)
    assert shown.metadata["reused"].value is False
    assert shown.metadata["prompts"] == dg.IntMetadataValue(2)
    assert shown.metadata["share"] == dg.FloatMetadataValue(0.5)
    assert shown.metadata["dagster/row_count"].value == 2
    columns = shown.metadata["dagster/column_schema"].value.columns
    assert [c.name for c in columns] == ["prompt_id", "prompt", "category", "group_id"]
    assert columns[1].description == "what the user asks"
    assert "pool is ready" in run.lines(result)


def test_pictures_and_tables_are_shown_in_place(run):
    run.made_before(*DATA, "sft_checkpoint")
    result = run("completion_pool_insult", "reward_model_insult")
    picture, table = (
        run.latest("reward_model_insult").metadata["curve"].value,
        run.latest("completion_pool_insult").metadata["examples"].value,
    )

    assert result.success
    assert (
        picture
        == f"![Loss by epoch](data:image/png;base64,{base64.b64encode(stub_stages.PICTURE).decode()})\n\nLoss by epoch"
    )
    assert list(run.latest("reward_model_insult").metadata)[:3] == ["key figures", "curve", "version"]
    assert table == "| prompt | reward |\n| --- | --- |\n| a\\|b | 0.1235 |"


def test_a_second_run_reuses_the_artifact_and_shows_its_numbers_again(run):
    run.made_before("prompt_pool")
    first = run.latest("prompt_pool")
    result = run("prompt_pool")
    again = run.latest("prompt_pool")

    assert again.metadata["reused"].value is True
    assert again.tags["dagster/data_version"] == first.tags["dagster/data_version"]
    assert again.metadata["prompts"].value == 2
    assert next(iter(again.metadata)) == "key figures"
    assert any("is reused" in line for line in run.lines(result))


def test_a_failing_category_says_why_and_the_others_are_kept(run):
    run.made_before("prompt_pool")
    result = run(*DATA[1:], behaviour="fail=safety_dataset_insult")
    failure = _failure(result, "dataset_by_category")
    kept = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}

    assert not result.success
    # The harmless prompts follow the splits of their unsafe twins, so their data set needs those of all categories.
    assert failure.description == (
        "safety_dataset_insult: row 3 of safety_dataset_insult has no prompt; fix the file and run again\n"
        "helpful_dataset: helpful_dataset needs safety_dataset_insult, which has not been materialized"
    )
    assert kept == {"safety_dataset_harm"}


def test_an_unexpected_error_names_its_line_and_keeps_the_traceback_separate(run):
    failure = _failure(run("prompt_pool", behaviour="crash=prompt_pool"), "prompt_pool")

    assert failure.description.startswith("prompt_pool: unexpected ZeroDivisionError: a bug (stub_stages.py, line ")
    assert "ZeroDivisionError: a bug" in failure.metadata["traceback of prompt_pool"].value


def test_a_missing_input_is_named_before_any_work_starts(run):
    result = run("safety_dataset_insult")
    failure = _failure(result, "dataset_by_category")

    assert failure.description.startswith("prompt_pool has not been materialized; materialize it first")
    assert not any("[pipes]" in line for line in run.lines(result))


def test_an_error_that_a_retry_cannot_fix_is_not_retried(run, project):
    job = all_definitions(project).resolve_implicit_global_asset_job_def()  # with the retry policy of heavy steps
    result = job.execute_in_process(
        instance=run.instance, asset_selection=[dg.AssetKey("sft_checkpoint")], raise_on_error=False
    )

    assert [e.event_type_value for e in result.all_events if "RETRY" in e.event_type_value] == []
    assert "safety_dataset_insult has not been materialized" in _failure(result, "sft_checkpoint").description


def test_a_damaged_input_is_named_with_advice(run):
    run.made_before("prompt_pool")
    (ArtifactStore(run.folder / "artifacts").latest("prompt_pool").path / "prompts.parquet").unlink()

    assert (
        "prompts.parquet is missing or truncated"
        in _failure(run("safety_dataset_insult"), "dataset_by_category").description
    )


def test_a_source_that_is_gone_is_named(run, project):
    (run.folder / "unsafe.jsonl").rename(run.folder / "elsewhere.jsonl")
    job = all_definitions(project, retry=None).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=run.instance, asset_selection=[dg.AssetKey("prompt_pool")], raise_on_error=False
    )

    assert "unsafe.jsonl cannot be read" in _failure(result, "prompt_pool").description


def test_a_killed_worker_is_started_again_once(run):
    result = run("prompt_pool", behaviour="kill=prompt_pool")  # kills itself on its first attempt only
    retries = [e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]

    assert result.success
    assert len(retries) == 1
    assert "killed by SIGKILL; the usual cause is too little memory" in retries[0].step_retry_data.error.cause.message


def test_a_killed_process_of_several_is_named_and_may_be_tried_again(run):
    failure = _failure(run("prompt_pool", behaviour="lose=prompt_pool"), "prompt_pool")

    assert failure.description == "prompt_pool: process 2 of 2 that trained together was killed by SIGKILL"
    assert failure.metadata == {}


def test_a_failing_blocking_check_stops_downstream_assets(run):
    run.made_before(*DATA, "sft_checkpoint", "completion_pool_insult")
    result = run("reward_model_insult", "hardness_insult", behaviour="weak=reward_model_insult")
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}

    assert made == {"reward_model_insult"}
    broken = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(c.asset_key.to_user_string(), c.check_name, c.metadata["accuracy"].value) for c in broken] == [
        ("reward_model_insult", "accuracy_floor", 0.0)
    ]


def test_observing_the_sources_records_the_hash_of_their_bytes(run):
    result = run("source_unsafe", "source_helpful")
    versions = {
        e.asset_key.to_user_string(): e.asset_observation_data.asset_observation
        for e in result.get_asset_observation_events()
    }

    assert set(versions) == {"source_unsafe", "source_helpful"}
    assert versions["source_helpful"].tags["dagster/data_version"] == "ca3d163bab055381"  # sha256 of "{}\n"
    assert versions["source_helpful"].metadata["bytes"].value == 3


def test_a_worker_dies_within_seconds_of_its_parent():
    child = "import os, time; from pipeline.running.worker import die_with; die_with(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 15
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie: in this container no parent waits for it
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_the_worker_started_by_hand_says_how_to_start_it():
    done = subprocess.run([sys.executable, "-m", "pipeline.running.worker"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert "is started by a Dagster step" in done.stderr
