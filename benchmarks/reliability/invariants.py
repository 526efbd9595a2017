"""What must hold after every kill, checked in the files and in Dagster's history."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dagster as dg

from drirl_core.errors import ArtifactError
from drirl_core.store.artifacts import ArtifactStore
from pipeline.executors.gpu_spec import GPU_POOL

_VERSION = re.compile(r"[0-9a-f]{16}")
FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED]


def half_published(root: Path) -> tuple[int, list[str]]:
    """Open and hash every version under a root, and follow every index entry.

    Returns:
        How many versions were checked, and what is wrong: a version that is not complete, an index entry that leads
        nowhere, a name that is neither.
    """
    store, count, problems = ArtifactStore(root), 0, []
    for folder in sorted(path for path in root.glob("*") if not path.name.startswith(".")):
        for entry in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            if entry.name == "by-input":
                problems += [
                    f"{file}: {said}"
                    for file in entry.glob("*.json")
                    if (said := _broken_index(store, folder.name, file))
                ]
            elif not _VERSION.fullmatch(entry.name):
                problems.append(f"{entry} is no version")
            else:
                count += 1
                said = _broken_version(store, folder.name, entry.name)
                problems += [said] if said else []
    return count, problems


def _broken_version(store: ArtifactStore, asset: str, version: str) -> str:
    try:
        store.verify(store.open(asset, version))
    except ArtifactError as error:
        return str(error)
    return ""


def _broken_index(store: ArtifactStore, asset: str, file: Path) -> str:
    try:
        return _broken_version(store, asset, json.loads(file.read_text(encoding="utf-8"))["version"])
    except (ValueError, KeyError) as error:
        return f"cannot be read ({error})"


def unfinished(instance: dg.DagsterInstance) -> list[str]:
    """Return the runs that are recorded as in progress or waiting."""
    return [run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))]


def started(instance: dg.DagsterInstance) -> list[str]:
    """Return the runs that are recorded as executing, or about to."""
    return [
        run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[s for s in UNFINISHED if s.value != "QUEUED"]))
    ]


def pool_slots(instance: dg.DagsterInstance) -> set[str]:
    """Return the runs that hold a slot in the GPU pool, or wait for one."""
    if GPU_POOL not in instance.event_log_storage.get_concurrency_keys():
        return set()
    pool = instance.event_log_storage.get_concurrency_info(GPU_POOL)
    return {slot.run_id for slot in pool.claimed_slots} | {step.run_id for step in pool.pending_steps}


def failures_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the messages of a failed run."""
    kinds = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)
    records = instance.get_records_for_run(run_id, of_type=set(kinds)).records
    return "; ".join(str(record.event_log_entry.dagster_event.message) for record in records)
