"""One of several processes that build an asset together.

Started by `drirl_core.graph.processes` as `python -m drirl_core.graph.member FOLDER INDEX`, with its place among the
processes in the environment, where accelerate reads it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.config import from_resolved
from drirl_core.errors import DrirlError
from drirl_core.graph.build import context_of
from drirl_core.graph.group import join_group, leave_group
from drirl_core.graph.processes import EVENTS, JOB, MEETING, RESULT, as_data, error_file
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.reporting import Reporter, SilentReporter
from drirl_core.store.artifacts import Workspace


class FileReporter:
    """Write each report as a line of JSON.

    Args:
        file: to append to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")

    def _write(self, name: str, *arguments: Any) -> None:
        self._file.write(json.dumps([name, arguments]) + "\n")
        self._file.flush()

    def log(self, message: str) -> None:
        """Pass on a line."""
        self._write("log", message)

    def progress(self, what: str, done: int, total: int) -> None:
        """Pass on the state of a task."""
        self._write("progress", what, done, total)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on the metrics of a step."""
        self._write("metrics", step, {key: float(value) for key, value in values.items()})


def work(folder: Path, index: int) -> None:
    """Build this process's part, and as the first one write the result.

    Args:
        folder: holds the job, and gets reports and result.
        index: of this process, from 0.
    """
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    _end_with(job["parent"])
    project = Project(from_resolved(job["config"]))
    join_group(project.config.models, (folder / MEETING).as_uri(), index, job["processes"], index)
    node = project.graph.nodes[job["asset"]]
    reporter: Reporter = FileReporter(folder / EVENTS) if index == 0 else SilentReporter()
    workspace = Workspace(Path(job["out"]), Path(job["scratch"]))
    context = context_of(
        node, project, job["versions"], workspace, reporter, key=job["key"], process=index, processes=job["processes"]
    )
    shown = lazy(STAGES[node.stage].function)(context)
    if index == 0:
        text = json.dumps({name: as_data(value) for name, value in shown.items()})
        (folder / RESULT).write_text(text, encoding="utf-8")
    leave_group()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, which is checked once per second."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def _failed(folder: Path, index: int, error: Exception) -> None:
    """Say why this process failed, complete or not at all."""
    if not isinstance(error, DrirlError):
        traceback.print_exc()
    data = {"time": time.time(), "process": index, "kind": type(error).__name__, "message": str(error)}
    unfinished = error_file(folder, index).with_suffix(".part")
    unfinished.write_text(json.dumps(data), encoding="utf-8")
    unfinished.replace(error_file(folder, index))


def main(folder: Path, index: int) -> None:
    """Do the work of one process; the exit code is 0 when it is done.

    Args:
        folder: made by `drirl_core.graph.processes`.
        index: of this process, from 0.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one, which ends it
    code = 0
    try:
        work(folder, index)
    except Exception as error:
        code = 1
        _failed(folder, index, error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: libraries would wait for the other processes when Python ends


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
