"""The reliability measurement: that it detects what it checks for, and a small version of it under `drirl run`."""

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest

from benchmarks.machine import RESULTS
from benchmarks.reliability import processes
from benchmarks.reliability.__main__ import measure
from benchmarks.reliability.invariants import half_published
from benchmarks.reliability.run_folder import make_run_folder
from benchmarks.reliability.table import PAGE, written
from benchmarks.reliability.trainings import Trainings
from drirl_core.config import load_config
from drirl_core.graph.layout import build_graph
from drirl_core.store.artifacts import ArtifactStore


def _publish(root: Path, asset: str) -> Path:
    store = ArtifactStore(root)
    with store.building(asset, "0123") as workspace:
        (workspace.out / "rows.txt").write_text("one")
        return store.publish(asset, "0123", workspace, details={"metadata": {}, "inputs": {}}).path


def test_a_half_published_artifact_is_seen(tmp_path: Path) -> None:
    damaged, removed = _publish(tmp_path, "damaged"), _publish(tmp_path, "removed")
    assert half_published(tmp_path) == (2, [])
    (damaged / "rows.txt").write_text("two")
    (removed / "manifest.json").unlink()
    (tmp_path / "damaged" / "half").mkdir()
    count, problems = half_published(tmp_path)
    assert count == 2
    assert (
        len([line for line in problems if "differs from what was published" in line]) == 2
    )  # the version, and its index entry
    assert len([line for line in problems if "not a published artifact" in line]) == 2
    assert [line for line in problems if line.endswith("half is no version")]


def _log(instance: dg.DagsterInstance, *lines: str) -> None:
    @dg.job
    def training():
        @dg.op
        def say(context: dg.OpExecutionContext):
            for line in lines:
                context.log.info(line)

        say()

    training.execute_in_process(instance=instance)


@pytest.mark.parametrize(
    ("lines", "resumed", "problem"),
    [
        (["[sft_checkpoint] SFT resumes from checkpoint-4", "SFT: 5/60"], 1, None),
        (["SFT: 1/60"], 0, "started at the beginning"),
        (["SFT resumes from checkpoint-2"], 0, "started from checkpoint-2"),
    ],
)
def test_where_an_interrupted_training_resumes_is_seen(
    tmp_path: Path, lines: list[str], resumed: int, problem: str | None
) -> None:
    for step, complete in ((2, True), (4, True), (6, False)):
        folder = tmp_path / ".work" / "sft_checkpoint-0123" / "scratch" / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "complete.json").write_text("{}")
    trainings = Trainings(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        _log(instance, "SFT: 1/60", "SFT: 6/60")
        trainings.read(instance)
        trainings.killed()
        assert (trainings.interrupted, trainings.waiting) == (1, {"SFT": 4})
        _log(instance, *lines)
        trainings.read(instance)
    assert trainings.resumed == resumed
    assert [problem in line for line in trainings.problems] == ([True] if problem else [])


def test_a_process_that_outlives_the_limit_is_seen(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"DAGSTER_HOME": str(tmp_path)})
    found = processes.of_home(tmp_path)
    assert found == [psutil.Process(child.pid)]
    _, left = processes.wait_gone(found, limit_s=0.3)
    assert left == found
    processes.kill(found)
    assert processes.wait_gone(found, limit_s=10)[1] == []
    child.wait()


def test_the_page_shows_the_figures_that_were_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    result = json.loads((RESULTS / "reliability.json").read_text(encoding="utf-8"))
    assert written(page, result) == page, "run python -m benchmarks.reliability.table"
    assert f"{result['kills']} kills at random moments" in page


@pytest.mark.slow  # a dozen processes that import torch
@pytest.mark.timeout(1500)
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    run_folder = make_run_folder(tmp_path, None)
    result = measure(run_folder, kills=6, seed=3, dev_share=0.0)
    assert result["broken"] == []
    assert result["kills"] == 6
    assert set(result["by_target"]) == {"drirl run: worker", "drirl run: command", "drirl run: everything"}
    assert result["graphs_completed"] >= 1
    assert (
        result["assets_compared"]
        == len(build_graph(load_config(run_folder.settings)).nodes) * result["graphs_completed"]
    )
    assert result["assets_that_differ"] == 0
    assert all(rows["compared"] > 0 and rows["lost"] == 0 for rows in result["rows"].values())
