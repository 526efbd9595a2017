"""Two ways to run the graph, and what can be killed in each: `drirl run` and `dagster dev`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from benchmarks.reliability import processes
from benchmarks.reliability.invariants import unfinished
from benchmarks.reliability.run_folder import RunFolder
from pipeline.instance.settings import ROOT

START_LIMIT_S, RUN_LIMIT_S = 600.0, 1800.0
_SIGNALS = ["env", "--default-signal=TERM,INT"]
"""A shell that runs this script in the background passes on that these signals are ignored."""

_LAUNCH = """mutation($job: String!) { launchRun(executionParams: {runConfigData: "{}", selector: {
  repositoryLocationName: "drirl", repositoryName: "__repository__", jobName: $job}}) { __typename } }"""
_RELOAD = """mutation { reloadRepositoryLocation(repositoryLocationName: "drirl") { __typename } }"""
_LOADED = """{ workspaceOrError { ... on Workspace {
  locationEntries { loadStatus locationOrLoadError { __typename } } } } }"""


class CommandLine:
    """`drirl run`: one process that runs the graph, and its worker.

    Args:
        run_folder: where it runs.
    """

    name = "drirl run"
    targets = ("worker", "command", "everything")
    moments_s = (0.5, 28.0)
    recovery_limit_s = 90.0
    """The next `drirl run` closes dead runs before it does anything else."""

    def __init__(self, run_folder: RunFolder) -> None:
        self._run_folder = run_folder
        self._process: subprocess.Popen[bytes] | None = None
        self.log = run_folder.path / "drirl_run.log"

    def ensure_running(self, instance: dg.DagsterInstance) -> None:
        """Start the command, unless it is running."""
        if not self.busy(instance):
            line = [sys.executable, "-m", "pipeline.cli", "run", str(self._run_folder.settings)]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    line, cwd=ROOT, env=self._run_folder.environment(), stdout=log, stderr=log, start_new_session=True
                )

    def busy(self, instance: dg.DagsterInstance) -> bool:
        """Tell whether the command is running."""
        return self._process is not None and self._process.poll() is None

    def victims(self, target: str) -> list[psutil.Process]:
        """Return the processes to kill, none when the target does not exist at the moment."""
        running = processes.of_home(self._run_folder.home)
        if target == "everything":
            return running
        command = [process for process in running if self._process and process.pid == self._process.pid]
        return command if target == "command" else processes.workers(running)

    def settings_changed(self) -> None:
        """Load the new settings: the next command reads them."""

    def stop(self) -> None:
        """Let a command end of which only the worker was killed."""
        if self._process is not None:
            self._process.wait(timeout=RUN_LIMIT_S)


class DagsterDev:
    """`dagster dev`: page, daemon and code server; runs are launched over GraphQL.

    Args:
        run_folder: where it runs.
    """

    name = "dagster dev"
    targets = ("worker", "step", "run worker", "daemon", "everything")
    moments_s = (0.5, 30.0)
    recovery_limit_s = 240.0
    """The start timeout of a run that never began, a round of the run monitor, and a round of its release of slots."""

    def __init__(self, run_folder: RunFolder) -> None:
        self._run_folder, self._port = run_folder, _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.log = run_folder.path / "dagster_dev.log"

    def ensure_running(self, instance: dg.DagsterInstance) -> None:
        """Start the servers, unless they are running, and launch the graph, unless a run is in progress."""
        if self._process is not None and self._dying():
            self._process.wait(timeout=START_LIMIT_S)
        if self._process is None or self._process.poll() is not None:
            self._start()
        if not self.busy(instance):
            answer = self._ask(_LAUNCH, {"job": "refresh_everything"})["launchRun"]
            if answer["__typename"] != "LaunchRunSuccess":
                raise RuntimeError(f"the run could not be launched: {answer}")

    def busy(self, instance: dg.DagsterInstance) -> bool:
        """Tell whether a run is in progress or waits."""
        return bool(unfinished(instance))

    def victims(self, target: str) -> list[psutil.Process]:
        """Return the processes to kill, none when the target does not exist at the moment."""
        running = processes.of_home(self._run_folder.home)
        if target == "everything":
            return running
        if target == "worker":
            return processes.workers(running)
        if target == "step":
            return [parent for worker in processes.workers(running) if (parent := worker.parent())]
        if target == "run worker":
            return processes.named(running, processes.RUN_WORKER, parent=processes.CODE_SERVER)
        return processes.named(running, processes.DAEMON)

    def settings_changed(self) -> None:
        """Load the new settings."""
        if self._process is not None and self._process.poll() is None:
            self._ask(_RELOAD)

    def stop(self) -> None:
        """End the servers by SIGTERM; the code server ends with the runs it owns.

        Raises:
            RuntimeError: a process remains.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        _, left = processes.wait_gone(processes.of_home(self._run_folder.home), START_LIMIT_S)
        if left:
            raise RuntimeError("dagster dev was asked to stop and left " + ", ".join(map(processes.describe, left)))

    def _start(self) -> None:
        line = [
            sys.executable,
            "-m",
            "dagster",
            "dev",
            "-w",
            str(ROOT / "workspace.yaml"),
            "-h",
            "127.0.0.1",
            "-p",
            str(self._port),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_SIGNALS, *line],
                cwd=ROOT,
                env=self._run_folder.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._loaded():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dagster dev did not start; see {self.log}")
            time.sleep(0.5)

    def _dying(self) -> bool:
        """Tell whether the servers are stopping, as they do when the daemon has died."""
        assert self._process is not None
        return self._process.poll() is None and not processes.named(
            processes.of_home(self._run_folder.home), processes.DAEMON
        )

    def _loaded(self) -> bool:
        try:
            entries = self._ask(_LOADED)["workspaceOrError"].get("locationEntries", [])
        except (OSError, ValueError):  # nothing listens yet, or it is still starting
            return False
        return [(e["loadStatus"], e["locationOrLoadError"]["__typename"]) for e in entries] == [
            ("LOADED", "RepositoryLocation")
        ]

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=START_LIMIT_S) as answer:
            return json.load(answer)["data"]


Driver = CommandLine | DagsterDev


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(file: Path, lines: int = 15) -> str:
    """Return the end of a log."""
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if file.is_file() else ""
