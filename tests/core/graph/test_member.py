"""Processes that build together: what is passed on, whose error is raised, and that none outlives its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from drirl_core.config import resolved
from drirl_core.errors import DataError
from drirl_core.graph import processes
from drirl_core.graph.member import FileReporter, _failed
from drirl_core.graph.processes import EVENTS, JOB, MEETING, ProcessKilledError
from drirl_core.reporting import Plot, Table
from drirl_core.testing import RecordingReporter, tiny_config

_PARENT = """
import json, os, pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
(folder / "job.json").write_text(json.dumps({**job, "parent": os.getpid()}))
member = subprocess.Popen([sys.executable, "-m", "drirl_core.graph.member", str(folder), "0"])
print(member.pid, flush=True)
member.wait()
"""


def test_lines_progress_and_metrics_are_passed_on_and_a_line_that_is_not_complete_waits(tmp_path: Path) -> None:
    (tmp_path / EVENTS).touch()
    written, reporter = FileReporter(tmp_path / EVENTS), RecordingReporter()
    with (tmp_path / EVENTS).open(encoding="utf-8") as events:
        written.log("GRPO resumes")
        written.progress("GRPO", 1, 4)
        written.metrics(1, {"loss": 0.5})
        processes._pass_on(events, reporter)
        assert (reporter.lines, reporter.done, reporter.steps) == (
            ["GRPO resumes"],
            {"GRPO": (1, 4)},
            [(1, {"loss": 0.5})],
        )
        with (tmp_path / EVENTS).open("a", encoding="utf-8") as file:
            file.write('["log", ["half')
            file.flush()
            processes._pass_on(events, reporter)
            assert reporter.lines == ["GRPO resumes"]
            file.write(' a line"]]\n')
        processes._pass_on(events, reporter)
    assert reporter.lines == ["GRPO resumes", "half a line"]


def test_metadata_survives_the_way_between_processes(tmp_path: Path) -> None:
    shown = {
        "loss": 0.25,
        "steps": 3,
        "first_cut": "",
        "curves": Plot(tmp_path / "a.png", "Loss"),
        "points": Table([{"a": 1}]),
    }
    text = json.dumps({name: processes.as_data(value) for name, value in shown.items()})
    assert {name: processes._value(value) for name, value in json.loads(text).items()} == shown


def test_the_first_error_is_raised_and_a_kill_before_any(tmp_path: Path) -> None:
    """The others fail a moment later, because they lost the first."""
    for index in (1, 2):
        (tmp_path / f"output-{index}.txt").touch()
    _failed(tmp_path, 1, DataError("row 3 is bad"))
    time.sleep(0.01)
    _failed(tmp_path, 0, RuntimeError("Connection closed by peer"))
    found = processes._failure([1, 1, None], tmp_path)
    assert (type(found), str(found)) == (DataError, "row 3 is bad")
    killed = processes._failure([1, None, -9], tmp_path)
    assert isinstance(killed, ProcessKilledError)
    assert str(killed).startswith("process 3 of 3 that trained together was killed by SIGKILL; the usual cause")
    _failed(tmp_path, 2, KeyError("loss"))
    (tmp_path / "error-1.json").unlink()
    (tmp_path / "error-0.json").unlink()
    assert str(processes._failure([None, None, 1], tmp_path)) == "process 3 of 3: KeyError: 'loss'"
    (tmp_path / "error-2.json").unlink()
    assert "ended with code 7 before it said why" in str(processes._failure([None, None, 7], tmp_path))


@pytest.mark.long
def test_a_process_ends_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    """It waits for a second process that never comes, in a library that listens to nothing."""
    config = tiny_config(tmp_path)
    folder = tmp_path / "meeting"
    folder.mkdir()
    job = {
        "config": resolved(config),
        "asset": "sft_checkpoint",
        "versions": {},
        "out": "",
        "scratch": "",
        "key": "",
        "processes": 2,
    }
    (folder / JOB).write_text(json.dumps(job))
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    member = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 120
    while not (folder / MEETING).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert member.is_running()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _works(member) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _works(member)


def _works(process: psutil.Process) -> bool:
    """Return whether a process still works; one that ended may be left as an entry that nobody collects."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
