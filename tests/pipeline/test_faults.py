"""Faults around a run: read-only or full home, clock set back, two homes on one root, a run whose process dies."""

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
from paths import FOLDER, ROOT
from waiting import wait_for

from benchmarks.reliability.invariants import half_published
from drirl_core.errors import ConfigError
from drirl_core.store.artifacts import ArtifactStore
from pipeline.running.run import run_pipeline
from pipeline.wiring.resolve import recorded_version

PREAMBLE = f"""
import multiprocessing, sys; sys.path[:0] = [{str(ROOT)!r}, {str(FOLDER)!r}]
import stub_stages; stub_stages.install()
from pipeline.running import launch; launch.WORKER = "stub_worker"
"""


def _run(settings: Path):
    return run_pipeline(settings, select=["prompt_pool"], on_event=lambda event: None)


@pytest.fixture
def mounted(home):
    """The home on a separate file system, if this account may mount one."""
    kept = {file.relative_to(home): file.read_bytes() for file in home.rglob("*") if file.is_file()}
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(home)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this account cannot mount a file system")
    for name, content in kept.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(content)
    yield home
    subprocess.run(["umount", str(home)], check=True)


def _remount(home: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(home)], check=True)


def test_a_read_only_home_is_explained_and_nothing_runs(stubbed, mounted, tmp_path):
    settings = stub_stages.write_settings(tmp_path)
    _remount(mounted, "ro")
    with pytest.raises(
        ConfigError, match=r"the Dagster home .* cannot be written \(.*Read-only.*\); .*set DAGSTER_HOME to another"
    ):
        _run(settings)
    assert not (tmp_path / "artifacts" / "prompt_pool").exists()
    _remount(mounted, "rw")
    assert _run(settings).success


def test_a_full_home_is_explained_and_freeing_space_fixes_it(stubbed, mounted, tmp_path):
    """The home fills up at different points of the run."""
    settings = stub_stages.write_settings(tmp_path)
    messages, filler = [], mounted / "filler"
    for free in (0, 8192, 65536, 262144):
        filler.write_bytes(b"")
        space = os.statvfs(mounted)
        filler.write_bytes(bytes(space.f_bavail * space.f_bsize - free))
        try:
            _run(settings)
        except ConfigError as error:
            messages.append(str(error))
        assert half_published(tmp_path / "artifacts")[1] == []
    assert messages
    assert all("cannot be written" in message and "free some space" in message for message in messages)
    filler.unlink()
    assert _run(settings).success
    with dg.DagsterInstance.from_config(str(mounted)) as instance:
        recorded = recorded_version(instance, "prompt_pool")
    published = ArtifactStore(tmp_path / "artifacts").latest("prompt_pool")
    assert published is not None
    assert recorded == published.version


@pytest.mark.slow  # several runs, each of which starts worker processes
def test_a_clock_that_is_set_back_between_runs_loses_nothing(stubbed, home, tmp_path, monkeypatch):
    settings, source, real = stub_stages.write_settings(tmp_path), tmp_path / "unsafe.jsonl", time.time
    first = _run(settings)
    versions = []
    for days in (20, -10):
        monkeypatch.setattr(time, "time", lambda days=days: real() + days * 86400)
        source.write_text(f"insult: day {days}\nharm: them\n")
        assert _run(settings).built == ["prompt_pool"]
        again = _run(settings)
        assert (again.success, again.run_id) == (True, None)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            versions.append(recorded_version(instance, "prompt_pool"))
        assert versions[-1] == again.plan.assets["prompt_pool"].version
    assert first.success
    assert len(set(versions)) == 2


@pytest.mark.slow  # two processes with all the workers of half the graph
def test_two_homes_on_one_root_at_once_build_each_asset_once(home, tmp_path):
    settings, root = stub_stages.write_settings(tmp_path), tmp_path / "artifacts"
    code = f"""{PREAMBLE}
import json
from pipeline.running.run import run_pipeline
outcome = run_pipeline({str(settings)!r}, select=["balance_report", "sft_checkpoint"], on_event=lambda event: None)
print(json.dumps([outcome.success, sorted(outcome.built), sorted(outcome.reused), list(outcome.failures)]))
"""
    other = tmp_path / "other_home"
    other.mkdir()
    (other / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(FOLDER), "DAGSTER_HOME": str(place)},
            stdout=subprocess.PIPE,
        )
        for place in (home, other)
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]

    assert [success for success, *_ in said] == [True, True], said
    built = [name for _, names, *_ in said for name in names]
    assert len(built) == len(set(built))
    assert set(built) == {
        "prompt_pool",
        "safety_dataset_insult",
        "safety_dataset_harm",
        "helpful_dataset",
        "balance_report",
        "sft_checkpoint",
    }
    assert half_published(root) == (len(built), [])


def test_a_step_whose_run_lost_its_process_stops_its_worker(home, tmp_path):
    """Otherwise it would continue to train while the run is retried."""
    settings = stub_stages.write_settings(tmp_path, name="sleep=prompt_pool")
    code = f"""{PREAMBLE}
import dagster as dg
from pipeline.wiring.factories import all_definitions
from pipeline.instance.settings import load
def step():
    job = all_definitions(load({str(settings)!r}), retry=None).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("prompt_pool")], raise_on_error=False)
process = multiprocessing.get_context("fork").Process(target=step)
process.start()
print(process.pid, flush=True)
process.join()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    step = int(run.stdout.readline())
    pid_file = wait_for(lambda: next((tmp_path / "artifacts" / ".work").glob("*/scratch/pid"), None))
    worker = int(wait_for(pid_file.read_text))
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert wait_for(lambda: _gone(worker) and _gone(step), seconds=15)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
