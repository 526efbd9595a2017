"""Run the road from a script or the command line: one Dagster run in this process, recorded like any other."""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from filelock import FileLock, Timeout

from drirl_core.config import Config
from drirl_core.errors import ArtifactError
from drirl_core.stages import Graph, build_graph, source_version
from pipeline.lib.checks import broken_promises
from pipeline.lib.events import RunEvent, events_of
from pipeline.lib.factories import all_definitions
from pipeline.lib.home import INSTANCE_FILE, chosen_home
from pipeline.lib.launch import QUIET_TAG, stop_run
from pipeline.lib.launcher import HealthCheckedLauncher
from pipeline.lib.owner import OWNER_TAG, owner_tag
from pipeline.lib.plan import Plan, plan, with_ancestors
from pipeline.lib.resolve import VERSION_TAG, stale_records
from pipeline.lib.settings import anchored, load

LOCK_FILE = "run.lock"
_POLL_S, _STOP_TIMEOUT_S = 0.3, 30.0
_NO_CAPTURE = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
"""Dagster would redirect this process's own output into files while a step runs."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Args:
        success: whether every asset asked for exists and keeps its promises.
        run_id: the Dagster run; None when there was nothing to do, so that none was started.
        plan: what was to be done.
        built: assets that were made anew.
        reused: assets that were found again.
        failures: what went wrong, one message each.
        cancelled: whether the user stopped it.
        seconds: time it took.
    """

    success: bool
    run_id: str | None
    plan: Plan
    built: Sequence[str] = ()
    reused: Sequence[str] = ()
    failures: Sequence[str] = ()
    cancelled: bool = False
    seconds: float = 0.0


def run_pipeline(
    config_path: str | Path | Config,
    *,
    select: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_event: Callable[[RunEvent], None],
) -> RunOutcome:
    """Make what is stale or missing; when everything is up to date, start nothing.

    Args:
        config_path: the YAML file, absolute or relative to the project, or a loaded configuration.
        select: names of assets, `*` and `?` allowed; what they need is made as well. None for all.
        overrides: dotted keys to values, applied to the file.
        on_event: told what happens, while it happens; called in the caller's thread.

    Returns:
        How it ended; a stage that fails is an outcome, not an exception.

    Raises:
        ConfigError: the configuration or the selection is wrong.
        DataError: a source file cannot be read.
        ArtifactError: another run is going on in this home.
    """
    started = time.monotonic()
    config = anchored(config_path) if isinstance(config_path, Config) else load(config_path, overrides)
    todo = plan(config, select)
    home = chosen_home()
    with _alone(home, config), _instance(home) as instance:
        heal(instance)
        graph = build_graph(config)
        broken = _broken(graph, todo, config)
        names = _selection(instance, graph, todo, broken)
        if not names:
            return RunOutcome(not broken, None, todo, failures=_flat(broken), seconds=time.monotonic() - started)
        _observe(instance, graph, todo)
        record = _Record(on_event)
        run_id, success, cancelled = _execute(instance, config, names, record)
    return RunOutcome(success, run_id, todo, record.built, record.reused, record.failures, cancelled, time.monotonic() - started)


class _Record:
    """Pass events on and keep what the outcome needs."""

    def __init__(self, on_event: Callable[[RunEvent], None]) -> None:
        self._on_event = on_event
        self.built: list[str] = []
        self.reused: list[str] = []
        self.failures: list[str] = []

    def take(self, event: RunEvent) -> None:
        if event.kind == "materialized" and event.asset:
            (self.reused if event.data["reused"] else self.built).append(event.asset)
        if event.kind == "failure" or (event.kind == "check" and event.data["blocking"] and not event.data["passed"]):
            self.failures.append(event.message)
        self._on_event(event)


def _execute(instance: dg.DagsterInstance, config: Config, names: Sequence[str], record: _Record) -> tuple[str, bool, bool]:
    """Execute one run and follow it; return its id, whether it succeeded and whether it was stopped."""
    run = _Execution(instance, config, names)
    stopped, cursor = False, None
    while True:
        try:
            ended = run.ended(_POLL_S)
            cursor = _follow(instance, run.run_id, cursor, record)
            if ended:
                return run.run_id, run.success, stopped
        except KeyboardInterrupt:
            run.stop()
            if stopped or not run.ended(_STOP_TIMEOUT_S):  # waiting for a place in the pool, which nothing interrupts
                run.abandon()
                return run.run_id, False, True
            stopped = True
        except BaseException:  # the listener failed: do not train on unseen
            run.stop()
            run.ended(_STOP_TIMEOUT_S)
            raise


class _Execution:
    """A Dagster run in a thread of its own.

    In the main thread Dagster takes Ctrl-C for itself and looks at it only between steps.
    """

    def __init__(self, instance: dg.DagsterInstance, config: Config, names: Sequence[str]) -> None:
        self.run_id, self.success = str(uuid.uuid4()), False
        self._instance, self._error, self._done = instance, None, threading.Event()
        # With a retry policy Dagster takes an interrupt for a failure and starts the step again.
        self._job = all_definitions(config, retry=None).resolve_implicit_global_asset_job_def()
        self._settings: dict[str, Any] = {
            "asset_selection": [dg.AssetKey(name) for name in names],
            "run_config": {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},  # failures reach the listener
            "tags": {OWNER_TAG: owner_tag(), QUIET_TAG: "true", "dagster/max_retries": "0", "drirl/config": config.name},
        }
        threading.Thread(target=self._execute, name="dagster-run", daemon=True).start()

    def _execute(self) -> None:
        try:
            result = self._job.execute_in_process(instance=self._instance, run_id=self.run_id, raise_on_error=False, **self._settings)
            self.success = result.success
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end.

        Raises:
            Exception: Dagster itself failed.
        """
        done = self._done.wait(timeout_s)  # not Thread.join: interrupted by Ctrl-C, Python 3.11 takes the thread for dead
        if self._error is not None and not isinstance(self._error, dg.DagsterExecutionInterruptedError):
            raise self._error
        return done

    def stop(self) -> None:
        """Ask the running step to stop its worker, and Dagster to count the run as cancelled."""
        stop_run(self.run_id)
        run = self._instance.get_run_by_id(self.run_id)
        if run and not run.is_finished and run.status is not dg.DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run, "Stopped by the user.")

    def abandon(self) -> None:
        """Record a run that does not end as cancelled; its thread dies with this process."""
        run = self._instance.get_run_by_id(self.run_id)
        if run and not run.is_finished:
            self._instance.report_run_canceled(run, "Stopped by the user.")
        self._instance.event_log_storage.free_concurrency_slots_for_run(self.run_id)


def _follow(instance: dg.DagsterInstance, run_id: str, cursor: str | None, record: _Record) -> str | None:
    """Hand on the events after `cursor`; return the cursor after them."""
    more = True
    while more:
        page = instance.get_records_for_run(run_id, cursor=cursor, limit=200)
        cursor, more = page.cursor, page.has_more
        for entry in page.records:
            for event in events_of(entry.event_log_entry):
                record.take(event)
    return cursor


def _selection(instance: dg.DagsterInstance, graph: Graph, todo: Plan, broken: Mapping[str, Sequence[str]]) -> list[str]:
    """Choose what the run contains.

    Besides what is pending: assets whose artifact exists but is not what the instance recorded last (found again in an
    instant, so that the graph and later steps see it), and inputs of pending assets that break a promise (found again,
    so that their blocking checks run and hold back what depends on them).
    """
    pending = {asset.name for asset in todo.pending}
    unrecorded = stale_records(instance, {name: asset.version for name, asset in todo.assets.items()}, graph)
    gates = {name for name in broken if any(name in graph.nodes[asset].inputs for asset in pending)}
    chosen = pending | set(unrecorded) | gates
    return [name for name in graph.nodes if name in chosen]


def _broken(graph: Graph, todo: Plan, config: Config) -> dict[str, list[str]]:
    found = {name: broken_promises(graph.nodes[name], asset.version, config) for name, asset in todo.assets.items() if asset.version}
    return {name: problems for name, problems in found.items() if problems}


def _flat(broken: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{name} breaks {problem}" for name, problems in broken.items() for problem in problems]


def _observe(instance: dg.DagsterInstance, graph: Graph, todo: Plan) -> None:
    """Record the sources' present versions, so that what is made from them does not look stale after the next look."""
    needed = {name for node in with_ancestors(graph, todo.assets) for name in node.inputs if name in graph.sources}
    for name in sorted(needed):
        key, version = dg.AssetKey(name), source_version(graph.sources[name])
        records = instance.fetch_observations(key, limit=1).records
        observation = records[0].asset_observation if records else None
        if observation is None or observation.tags.get(VERSION_TAG) != version:
            instance.report_runless_asset_event(dg.AssetObservation(key, tags={VERSION_TAG: version}))


def heal(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone, and give back their places in the GPU pool.

    Returns:
        Ids of those runs.
    """
    launcher = instance.run_launcher
    if not isinstance(launcher, HealthCheckedLauncher):  # another launcher has its own monitor
        return []
    healed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])):
        health = launcher.check_run_worker_health(run)
        if health.status.value == "FAILED":
            instance.report_run_failed(run, f"Marked as failed: {health.msg}.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            healed.append(run.run_id)
    return healed


@contextlib.contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the instance of a home, with its own settings except for the capture of output."""
    file = home / INSTANCE_FILE
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    name = f"run_{INSTANCE_FILE}"
    (home / name).write_text(yaml.safe_dump({**(settings or {}), "compute_logs": _NO_CAPTURE}), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(home), name) as instance:
        yield instance


@contextlib.contextmanager
def _alone(home: Path, config: Config) -> Iterator[None]:
    """Hold the home's run lock, so that two runs at once do not train the same thing twice.

    Raises:
        ArtifactError: another process holds it; the message names it.
    """
    lock, note = FileLock(home / LOCK_FILE), home / f"{LOCK_FILE}.json"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ArtifactError(_occupied(note)) from error
    try:
        note.write_text(json.dumps({"pid": os.getpid(), "since": time.time(), "config": config.name}), encoding="utf-8")
        yield
        note.unlink(missing_ok=True)
    finally:
        lock.release()


def _occupied(note: Path) -> str:
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
        who = f"process {holder['pid']} with the configuration {holder['config']!r}, since {since}"
        stop = f"or stop it (kill {holder['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        who, stop = "another process", "or stop it"
    return f"a run is going on in {note.parent}: {who}; wait for it {stop}, then run again"
