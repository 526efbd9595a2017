"""Find and kill the processes of one Dagster home, and tell which of them a worker depends on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from pipeline.instance.home import HOME_VARIABLE
from pipeline.running.launch import WORKER

RUN_WORKER, CODE_SERVER, DAEMON = "multiprocessing.spawn", "grpc", "dagster._daemon"
"""Words in the command lines of Dagster's processes."""


def of_home(home: Path) -> list[psutil.Process]:
    """Return the living processes that were started with this Dagster home, except this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(HOME_VARIABLE) == str(home) and alive(process):
                found.append(process)
    return found


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that is dead and not yet collected by its parent does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def named(processes: Iterable[psutil.Process], word: str, parent: str = "") -> list[psutil.Process]:
    """Return those with `word` in their command line and `parent` in their parent's."""
    return [
        process for process in processes if word in _line(process) and (not parent or parent in _line(process.parent()))
    ]


def workers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the training workers."""
    return named(processes, WORKER)


def kill(victims: Iterable[psutil.Process]) -> None:
    """Send SIGKILL."""
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


def owners(worker: psutil.Process) -> list[psutil.Process]:
    """Return the processes that a worker may not outlive: those of its run, without Dagster's servers."""
    kept: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for ancestor in worker.parents():
            if CODE_SERVER in _line(ancestor) or ancestor.pid == os.getpid():
                break
            kept.append(ancestor)
    return kept


def wait_gone(processes: Sequence[psutil.Process], limit_s: float) -> tuple[float, list[psutil.Process]]:
    """Wait until all are dead.

    Returns:
        Seconds that this took, and the processes that outlived the limit.
    """
    started = time.monotonic()
    while (left := [process for process in processes if alive(process)]) and time.monotonic() - started < limit_s:
        time.sleep(0.1)
    return time.monotonic() - started, left


def describe(process: psutil.Process) -> str:
    """Describe a process in a line of evidence."""
    with contextlib.suppress(psutil.Error):
        return f"process {process.pid} ({process.status()}, {process.parent()}): {_line(process)[:120]}"
    return f"process {process.pid}"


def _line(process: psutil.Process | None) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()) if process else ""
    return ""
