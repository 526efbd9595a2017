"""Build an asset in several processes that train together: start them, pass on what they report, end all of them.

Each process is a Python of its own that runs the stage's function on its share of every batch
(`drirl_core.graph.member`). The first one reports, and writes what is published. When one fails or is killed, the
others would wait for it, so all are ended and the first error is raised; when this process dies, they notice and end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core import errors
from drirl_core.config import Config, resolved
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.graph.layout import Node
from drirl_core.graph.record import Batch, lazy
from drirl_core.graph.stages import STAGES
from drirl_core.models import packages
from drirl_core.reporting import Plot, Reporter, Table
from drirl_core.store.artifacts import Workspace

logger = logging.getLogger(__name__)

MEMBER = "drirl_core.graph.member"
"""Module that each of the processes runs."""
JOB, EVENTS, RESULT, MEETING = "job.json", "events.jsonl", "result.json", "meeting"
"""Files of the folder that the processes share: what to build, what is reported, what it gave, where they meet."""
_POLL_S = 0.2
_GRACE_S = 10.0
_LAST_LINES = 30


class ProcessKilledError(RuntimeError):
    """Say that a process was killed from outside; the same work may succeed when it is started again."""


@dataclass(frozen=True)
class Job:
    """What to build.

    Args:
        node: the asset.
        config: the complete configuration.
        versions: version of each of its inputs.
        workspace: directories of the build.
        key: hash of code, settings and inputs.
    """

    node: Node
    config: Config
    versions: Mapping[str, str]
    workspace: Workspace
    key: str


def count_for(node: Node, config: Config, reporter: Reporter) -> int:
    """Return how many processes build an asset.

    Args:
        node: the asset.
        config: `execution.processes`, `execution.gpu.count` and the batch of the training.
        reporter: is told when fewer processes than asked for can share the batch.

    Raises:
        ConfigError: each process needs a GPU of its own, and there are fewer.
    """
    stage = STAGES[node.stage]
    if not stage.batch:
        return 1
    for problem in (*sharding_problems(config), *packages.sharding_problems(config.execution)):
        raise ConfigError(problem)
    if config.execution.most_processes(config.models.device != "cpu") < 2:
        return 1
    asked = _asked(config)
    batch: Batch = lazy(stage.batch)(config)
    count = batch.processes(asked)
    if count == 1 and config.execution.sharding != "none":
        raise ConfigError(
            f"execution.sharding is {config.execution.sharding!r}, but {batch.setting} is {batch.rows}, which "
            f"{asked} processes cannot share, nor fewer of them; change {batch.setting}, or set execution.sharding to "
            "none"
        )
    if count < asked:
        reporter.log(
            f"{node.name} trains in {count} of {asked} processes: {batch.setting} is {batch.rows}"
            f"{f' in units of {batch.unit}' if batch.unit > 1 else ''}, which does not divide among more evenly"
        )
    return count


def sharding_problems(config: Config) -> Iterator[str]:
    """Say why the weights of a policy cannot be divided, where the settings ask for that.

    Args:
        config: the complete configuration.
    """
    execution = config.execution
    if execution.sharding == "none":
        return
    from drirl_core.models.loading import device_of

    if execution.most_processes(device_of(config.models).type == "cuda") < 2:
        yield (
            f"execution.sharding is {execution.sharding!r}, which divides weights among processes, but one process "
            f"trains (execution.processes {execution.processes}, execution.gpu.count {execution.gpu.count}); set "
            "execution.processes to 2 or more, or execution.sharding to none"
        )


def _asked(config: Config) -> int:
    """Return how many processes the settings ask for on this machine."""
    from drirl_core.models.loading import device_of

    execution, on_gpu = config.execution, device_of(config.models).type == "cuda"
    asked = execution.most_processes(on_gpu)
    if on_gpu and asked > 1:
        import torch

        seen = torch.cuda.device_count()
        if seen < asked:
            raise ConfigError(
                f"execution.gpu.count {execution.gpu.count} and execution.processes {execution.processes} ask for "
                f"{asked} processes that train together, each on a GPU of its own, but this step sees {seen}; set "
                f"execution.processes to {seen} at most, or give the step more GPUs"
            )
    return asked


def build_together(job: Job, count: int, reporter: Reporter) -> dict[str, Any]:
    """Run a stage's function in several processes of this machine.

    Args:
        job: what to build; the workspace's `out` is filled by the first process.
        count: number of processes.
        reporter: gets what the first process reports.

    Returns:
        The stage's display metadata.

    Raises:
        DrirlError: a process raised it; of several errors the first.
        ProcessKilledError: a process was killed.
        RuntimeError: a process failed otherwise; its traceback is in the output.
    """
    # Not in the scratch directory: the file in which they meet needs locks, which a network disk may not have.
    with tempfile.TemporaryDirectory(prefix="drirl-processes-") as name:
        folder = Path(name)
        (folder / JOB).write_text(json.dumps(_described(job, count)), encoding="utf-8")
        (folder / EVENTS).touch()
        with _started(folder, count) as processes, (folder / EVENTS).open(encoding="utf-8") as events:
            while _working(codes := [process.poll() for process in processes]):
                _pass_on(events, reporter)
                time.sleep(_POLL_S)
            _pass_on(events, reporter)
            if any(codes):
                raise _failure(codes, folder)
        return {name: _value(value) for name, value in json.loads((folder / RESULT).read_text("utf-8")).items()}


def _described(job: Job, count: int) -> dict[str, Any]:
    return {
        "config": resolved(job.config),
        "asset": job.node.name,
        "versions": dict(job.versions),
        "out": str(job.workspace.out),
        "scratch": str(job.workspace.scratch),
        "key": job.key,
        "processes": count,
        "parent": os.getpid(),
    }


@contextlib.contextmanager
def _started(folder: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the processes; none of them is left when the block ends, however it ends."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(count):
            command = [sys.executable, "-m", MEMBER, str(folder), str(index)]
            variables = {**os.environ, **_variables(index, count)}
            # Libraries print the same in each process; what the others print is shown when one fails.
            with _output(folder, index).open("wb") as output:
                to = {} if index == 0 else {"stdout": output, "stderr": subprocess.STDOUT}
                processes.append(subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, **to))  # noqa: S603 - our own module
        yield processes
    finally:
        _end(processes)


def _variables(index: int, count: int) -> dict[str, str]:
    """Return the environment of a process: its place as accelerate reads it, its threads, and the loopback interface.

    Without the interface, the libraries that exchange gradients would listen on the network.
    """
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // count)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "TOKENIZERS_PARALLELISM": "false",
    }
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    return {**chosen, **{name: str(value) for name, value in place.items()}, "PYTHONPATH": os.pathsep.join(here)}


def _working(codes: Sequence[int | None]) -> bool:
    """Return whether the processes still work: none of them failed, and not all of them are done."""
    return not any(codes) and None in codes


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run; SIGKILL ends what does not listen in a C library either."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(folder: Path, index: int) -> Path:
    return folder / f"output-{index}.txt"


def error_file(folder: Path, index: int) -> Path:
    """Return the file in which a process says why it failed."""
    return folder / f"error-{index}.json"


def _failure(codes: Sequence[int | None], folder: Path) -> Exception:
    """Return the first error of the processes, or that one was killed."""
    for index in range(1, len(codes)):
        lines = _output(folder, index).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        if lines:
            logger.warning("process %d of %d ended after:\n%s", index + 1, len(codes), "\n".join(lines))
    killed = [(index, -code) for index, code in enumerate(codes) if code is not None and code < 0]
    if killed:
        index, number = killed[0]
        name = signal.Signals(number).name
        cause = "; the usual cause is too little memory" if name == "SIGKILL" else ""
        return ProcessKilledError(
            f"process {index + 1} of {len(codes)} that trained together was killed by {name}{cause}. The others were "
            "ended. Run again: training continues from its last checkpoint."
        )
    said = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in (error_file(folder, index) for index in range(len(codes)))
        if file.is_file()
    ]
    if not said:
        return RuntimeError(f"a process ended with code {next(filter(None, codes))} before it said why; see its output")
    first = min(said, key=lambda error: error["time"])  # the others fail because they lost it
    kind = getattr(errors, first["kind"], None)
    if isinstance(kind, type) and issubclass(kind, DrirlError):
        return kind(first["message"])
    return RuntimeError(f"process {first['process'] + 1} of {len(codes)}: {first['kind']}: {first['message']}")


def _pass_on(events: Any, reporter: Reporter) -> None:
    """Pass complete lines on to the reporter; one that is still being written is read the next time."""
    while True:
        place = events.tell()
        line = events.readline()
        if not line.endswith("\n"):
            events.seek(place)
            return
        name, arguments = json.loads(line)
        getattr(reporter, name)(*arguments)


def as_data(value: Any) -> Any:
    """Return a value of display metadata as JSON data; `_value` is the reverse."""
    if isinstance(value, Plot):
        return {"plot": [str(value.path), value.caption]}
    return {"table": value.rows} if isinstance(value, Table) else value


def _value(data: Any) -> Any:
    if isinstance(data, dict) and "plot" in data:
        return Plot(Path(data["plot"][0]), data["plot"][1])
    return Table(data["table"]) if isinstance(data, dict) and "table" in data else data
