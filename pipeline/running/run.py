"""Run the graph from a script or the command line: one Dagster run in this process, recorded like every other run."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from filelock import FileLock, Timeout

from drirl_core.checks.asking import broken_promises, rules_of
from drirl_core.config import Config
from drirl_core.errors import ArtifactError
from drirl_core.graph.layout import Graph
from drirl_core.graph.plan import Plan, plan, with_ancestors
from drirl_core.graph.versions import source_version
from drirl_core.models.references import require_local_models
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE
from drirl_core.store.disk import replace_text
from pipeline.executors.choice import require_local
from pipeline.instance.home import (
    INSTANCE_FILE,
    chosen_home,
    home_errors_explained,
    instance_settings,
    settings_explained,
)
from pipeline.instance.settings import anchored, load
from pipeline.running.events import RunEvent, events_of
from pipeline.running.execution import Execution
from pipeline.running.launcher import HealthCheckedLauncher
from pipeline.running.looking import look_before
from pipeline.running.problems import once
from pipeline.wiring.private import NO_CAPTURE
from pipeline.wiring.resolve import VERSION_TAG, observed_version, stale_records

LOCK_FILE = "run.lock"
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""States in which the process of a run may die; before a run starts, recording its plan takes seconds."""

_POLL_S = 0.3


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Args:
        success: whether every requested asset exists and passes its blocking checks.
        run_id: the Dagster run; None when there was nothing to do and no run was started.
        plan: what had to be done.
        built: assets that were built.
        reused: assets whose artifact existed and was reused.
        failures: what went wrong, one message each; what went wrong in the same way in several assets is one message.
        cancelled: whether the user stopped it.
        seconds: time it took.
        versions: version of each asset that is known to be up to date at the end.
    """

    success: bool
    run_id: str | None
    plan: Plan
    built: Sequence[str] = ()
    reused: Sequence[str] = ()
    failures: Sequence[str] = ()
    cancelled: bool = False
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


def run_pipeline(
    config_path: str | Path | Config | Project,
    *,
    select: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_event: Callable[[RunEvent], None],
) -> RunOutcome:
    """Build what is stale or missing; when everything is up to date, start nothing.

    Args:
        config_path: the YAML file, absolute or relative to the project, or a loaded `Config` or `Project`.
        select: names of assets, `*` and `?` allowed; what they need is built as well. `stale` stands for assets
            that were built before and are out of date now. None for all.
        overrides: values by dotted key, applied to the file.
        on_event: called with each event as it happens, in the caller's thread.

    Returns:
        How the run ended; a failed stage is an outcome, not an exception.

    Raises:
        ConfigError: the configuration or the selection is wrong, or its executor runs steps elsewhere.
        DataError: a source file cannot be read.
        ArtifactError: another run is in progress in this home.
        ModelError: a model named by its directory is missing or damaged.
    """
    project = _project(config_path, overrides)
    require_local(project.config)
    return run_planned(project, plan(project, select), on_event)


def _project(given: str | Path | Config | Project, overrides: Mapping[str, Any] | None) -> Project:
    if isinstance(given, Project):
        return given
    return Project(anchored(given)) if isinstance(given, Config) else load(given, overrides)


def run_planned(project: Project, todo: Plan, on_event: Callable[[RunEvent], None]) -> RunOutcome:
    """Carry out a plan.

    Args:
        project: the configuration, its graph and its store.
        todo: its plan.
        on_event: called with each event as it happens, in the caller's thread.

    Returns:
        How the run ended; a failed stage is an outcome, not an exception.

    Raises:
        ConfigError: the Dagster home cannot be used, the executor runs steps elsewhere, or adapters, prompts or models
            do not fit together.
        ArtifactError: another run is in progress in this home.
        ModelError: a model named by its directory is missing or damaged.
    """
    started, home, graph = time.monotonic(), chosen_home(), project.graph
    require_local(project.config)
    with home_errors_explained(home), alone(home, project.config), _instance(home) as instance:
        heal(instance)
        broken = _broken(todo, project)
        names = _selection(instance, graph, todo, broken)
        untouched = [
            f"{name} breaks {problem}" for name, problems in broken.items() if name not in names for problem in problems
        ]
        if not names:
            seconds = time.monotonic() - started
            return RunOutcome(not untouched, None, todo, failures=once(untouched), seconds=seconds, versions=todo.known)
        require_local_models(project.config)
        look_before(project, names)
        _observe(instance, graph, todo)
        record, run = _Record(on_event), Execution(instance, project, names)
        stopped = _follow(run, record)
    return RunOutcome(
        run.success and not untouched,
        run.run_id,
        todo,
        record.built,
        record.reused,
        once([*record.failures, *untouched]),
        stopped,
        time.monotonic() - started,
        {**todo.known, **record.versions},
    )


class _Record:
    """Pass events on and collect what `RunOutcome` needs."""

    def __init__(self, on_event: Callable[[RunEvent], None]) -> None:
        self._on_event = on_event
        self._cursor: str | None = None
        self._last = -1
        self.built: list[str] = []
        self.reused: list[str] = []
        self.failures: list[str] = []
        self.versions: dict[str, str] = {}

    def read(self, instance: dg.DagsterInstance, run_id: str) -> None:
        """Pass on the events recorded since the last call."""
        more = True
        while more:
            page = instance.get_records_for_run(run_id, cursor=self._cursor, limit=200)
            for entry in page.records:
                if entry.storage_id > self._last:  # an interrupted page is read again
                    self._last = entry.storage_id
                    for event in events_of(entry.event_log_entry):
                        self._take(event)
            self._cursor, more = page.cursor, page.has_more

    def _take(self, event: RunEvent) -> None:
        if event.kind == "materialized" and event.asset:
            (self.reused if event.data["reused"] else self.built).append(event.asset)
            self.versions[event.asset] = str(event.data["version"])
        if event.is_problem:
            self.failures.append(event.message)
        self._on_event(event)


def _follow(run: Execution, record: _Record) -> bool:
    """Pass on the events of a run until it ends; return whether it was stopped."""
    stopped = False
    while True:
        try:
            ended = run.ended(_POLL_S)
            record.read(run.instance, run.run_id)
            if ended:
                return stopped
        except KeyboardInterrupt:
            if not run.stop():
                return True
            stopped = True
        except BaseException:  # the listener failed: do not continue a run that nobody watches
            run.stop()
            raise


def _selection(
    instance: dg.DagsterInstance, graph: Graph, todo: Plan, broken: Mapping[str, Sequence[str]]
) -> list[str]:
    """Choose the assets of the run.

    Besides what is pending: assets whose artifact exists but is not the version that the instance recorded last (they
    are reused at once, so that the graph and later steps see them), and inputs of pending assets that fail a blocking
    check (they are reused, so that their checks run and stop what depends on them).
    """
    pending = {asset.name for asset in todo.pending}
    unrecorded = stale_records(instance, {name: asset.version for name, asset in todo.assets.items()}, graph)
    gates = {name for name in broken if any(name in graph.nodes[asset].inputs for asset in pending)}
    chosen = pending | set(unrecorded) | gates
    return [name for name in graph.nodes if name in chosen]


def _broken(todo: Plan, project: Project) -> dict[str, list[str]]:
    found = {
        name: broken_promises(project.graph.nodes[name], project.store.open(name, asset.version).path, project)
        for name, asset in todo.assets.items()
        if asset.version and rules_of(project.graph.nodes[name].stage)
    }
    return {name: problems for name, problems in found.items() if problems}


def _observe(instance: dg.DagsterInstance, graph: Graph, todo: Plan) -> None:
    """Record the current versions of the sources, else assets built from them look stale at the next observation."""
    needed = {name for node in with_ancestors(graph, todo.assets) for name in node.inputs if name in graph.sources}
    for name in sorted(needed):
        key, version = dg.AssetKey(name), source_version(graph.sources[name])
        if observed_version(instance, name) != version:
            instance.report_runless_asset_event(dg.AssetObservation(key, tags={VERSION_TAG: version}))


def heal(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, and release their slots in the GPU pool.

    Returns:
        Ids of those runs.
    """
    launcher = instance.run_launcher
    if not isinstance(launcher, HealthCheckedLauncher):  # another launcher has its own monitor
        return []
    healed: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        health = launcher.check_run_worker_health(run)
        if health.status.value == "FAILED":
            instance.report_run_failed(run, f"Marked as failed: {health.msg}.")
            healed.append(run.run_id)
    _release_slots_of_finished_runs(instance)
    return healed


def _release_slots_of_finished_runs(instance: dg.DagsterInstance) -> None:
    """Release pool slots of runs that have ended: a process that is killed while it closes a run leaves them behind."""
    storage = instance.event_log_storage
    pools = [storage.get_concurrency_info(name) for name in storage.get_concurrency_keys()]
    holders = {slot.run_id for pool in pools for slot in (*pool.claimed_slots, *pool.pending_steps)}
    for run_id in sorted(holders):
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


@contextlib.contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance of the chosen home, as a run would, and make sure that its history can be read.

    Raises:
        ConfigError: the home or its database cannot be used.
    """
    home = chosen_home()
    with contextlib.ExitStack() as opened:
        with home_errors_explained(home):
            instance = opened.enter_context(_instance(home))
            instance.get_runs(limit=1)  # the first query opens the connection to a database
            instance.fetch_materializations(dg.AssetKey(CANDIDATE), limit=1)
        yield instance


@contextlib.contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open the instance of a home, with its own settings except for the capture of output.

    Otherwise Dagster would redirect the output of this process into files while a step runs.

    Raises:
        ConfigError: Dagster refuses the settings.
    """
    name = f"run_{INSTANCE_FILE}"
    replace_text(home / name, yaml.safe_dump({**instance_settings(home), "compute_logs": NO_CAPTURE}))
    with contextlib.ExitStack() as opened:
        with settings_explained(home):
            instance = opened.enter_context(dg.DagsterInstance.from_config(str(home), name))
            _ = instance.run_launcher, instance.run_coordinator  # Dagster makes them on first use
        yield instance


@contextlib.contextmanager
def alone(home: Path, config: Config) -> Iterator[None]:
    """Hold the home's run lock, so that two simultaneous runs do not train the same thing twice.

    Args:
        home: the Dagster home.
        config: its name is shown to other processes that find the lock taken.

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
    return f"a run is in progress in {note.parent}: {who}; wait for it {stop}, then run again"
