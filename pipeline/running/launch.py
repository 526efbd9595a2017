"""Run stages in a worker process and pass on its reports, so that the Dagster process never loads a model."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import dagster as dg

from drirl_core.config import resolved
from drirl_core.graph.layout import Node
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from pipeline.executors.gpu_share import taken_gpus
from pipeline.executors.gpu_spec import gpu_spec
from pipeline.instance.settings import ROOT
from pipeline.running.messages import LineReader
from pipeline.running.problems import once
from pipeline.wiring.resolve import input_versions

WORKER = "pipeline.running.worker"
"""Module that the worker process runs."""

QUIET_TAG = "drirl/quiet"
"""Tag of runs whose worker output is not copied to stderr; the log events contain the same lines."""

RETRY_DELAY_S = 10
_POLL_S = 0.3
_stopped: set[str] = set()
_STOP_TIMEOUT_S = 20.0
_LAST_LINES = 30


def stop_run(run_id: str) -> None:
    """Stop the worker of a run in this process; its step counts as interrupted, and no further step starts.

    Args:
        run_id: the Dagster run.
    """
    _stopped.add(run_id)


def run_stages(
    context: dg.AssetExecutionContext, nodes: Sequence[Node], project: Project
) -> Iterator[dg.MaterializeResult]:
    """Build assets in one worker process.

    Each asset is yielded as soon as it is finished, so that it is kept even if a later one fails.

    Args:
        context: the step's context.
        nodes: the assets to build, all selected in this step.
        project: the configuration, its graph and its store.

    Yields:
        One result per asset, with its data version and metadata.

    Raises:
        dg.Failure: an input is missing or a stage failed; it is not retried, because it would fail again.
        dg.RetryRequested: the worker was killed; it is started again once.
        dg.DagsterExecutionInterruptedError: the run was stopped.
    """
    _raise_if_stopped(context.run_id)
    versions = input_versions(context.instance, nodes, project)
    extras = {
        "config": resolved(project.config),
        "targets": [node.name for node in nodes],
        "versions": versions,
        "parent": os.getpid(),
    }
    spec = gpu_spec(any(STAGES[node.stage].heavy for node in nodes), project.config)
    sent = 0
    with (
        taken_gpus(spec.count) as gpus,
        dg.open_pipes_session(context, dg.PipesTempFileContextInjector(), LineReader(), extras) as session,
        _worker(session, gpus, quiet=context.run.tags.get(QUIET_TAG) == "true") as (process, output),
    ):
        while _running(process):
            _raise_if_stopped(context.run_id)
            results = session.get_reported_results()[sent:]
            sent += len(results)
            yield from results
    yield from session.get_reported_results()[sent:]
    if process.returncode != 0:
        failure = _failure(session.get_custom_messages(), process.returncode, output.last_lines())
        if process.returncode < 0:
            raise dg.RetryRequested(max_retries=1, seconds_to_wait=RETRY_DELAY_S) from failure
        raise failure


def _raise_if_stopped(run_id: str) -> None:
    if run_id in _stopped:
        raise dg.DagsterExecutionInterruptedError("stopped by the user")
    owner = multiprocessing.parent_process()
    if owner is not None and not owner.is_alive():  # else this step would continue to train while the run is retried
        raise dg.DagsterExecutionInterruptedError("the process of the run is gone")


class _Output:
    """Forward a worker's output line by line and keep the last lines."""

    def __init__(self, stream: IO[str], quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._thread = threading.Thread(target=self._forward, daemon=True, name="worker-output")
        self._thread.start()

    def _forward(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            if not self._quiet:
                with contextlib.suppress(ValueError, OSError):  # the step's own stream may be closed already
                    sys.stderr.write(line)
                    sys.stderr.flush()

    def last_lines(self) -> str:
        self._thread.join(timeout=2.0)
        return "".join(self._lines)


@contextlib.contextmanager
def _worker(
    session: dg.PipesSession, variables: Mapping[str, str], quiet: bool
) -> Iterator[tuple[subprocess.Popen[str], _Output]]:
    """Start the worker in its own process group, and stop the complete group when the block ends early."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(  # noqa: S603 - our own module, no outside input
        [sys.executable, "-m", WORKER],
        cwd=ROOT,
        env={
            **os.environ,
            **variables,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            **session.get_bootstrap_env_vars(),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops the worker and its helpers
    )
    try:
        yield process, _Output(process.stdout, quiet)
    finally:
        _stop(process)


def _running(process: subprocess.Popen[str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_POLL_S)
        return False
    return True


def _stop(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)


def _failure(messages: Sequence[Any], code: int, output: str) -> dg.Failure:
    """Turn the messages of a failed worker into an error whose first lines say what went wrong."""
    problems = [message for message in messages if isinstance(message, dict) and "problem" in message]
    if problems:
        expected = all(message["expected"] for message in problems)
        metadata = {
            f"traceback of {m['asset']}": dg.MetadataValue.md(f"```\n{m['traceback']}\n```")
            for m in problems
            if m.get("traceback")
        }
        return dg.Failure(
            "\n".join(once(f"{m['asset']}: {m['problem']}" for m in problems)), metadata, allow_retries=not expected
        )
    if code < 0:
        name = signal.Signals(-code).name
        cause = "; the usual cause is too little memory" if name == "SIGKILL" else ""
        said = (
            f"the worker process was killed by {name}{cause}. Run again: training continues from its last checkpoint."
        )
    else:
        said = f"the worker process ended with code {code} before it reported anything."
    return dg.Failure(f"{said}\n{output}".rstrip(), allow_retries=True)
