"""The sensor of the drop folder: accept files, and tell Dagster that the source `source_inbox` has changed."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from drirl_core.graph.layout import INBOX_SOURCE
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.prompts.inbox import InboxBusy, Refused, Swept, sweep
from pipeline.wiring.alerts import Alert, Hook, send_all
from pipeline.wiring.resolve import VERSION_TAG, observed_version

INTERVAL_S = 30
_SECONDS_PER_SWEEP = 20.0
"""Limit per tick; Dagster stops a sensor after a minute."""


def inbox_sensor(project: Project, hooks: Sequence[Hook] = ()) -> dg.SensorDefinition:
    """Return the sensor that processes the drop folder; it starts no run.

    Args:
        project: gives the drop folder.
        hooks: further functions that take the alerts on rejected files.
    """

    @dg.sensor(
        name="ingest_dropped_files",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Validates the files in the drop folder, accepts or rejects them, and observes source_inbox.",
    )
    def ingest_dropped_files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            swept = sweep(project, seconds=_SECONDS_PER_SWEEP, most_lost=project.config.checks.max_lost_fraction)
        except InboxBusy as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        for line in told(swept):
            context.log.info(line)
        send_all(
            [rejection(refused) for refused in swept.rejected], project.config.operations.alerts, context.log, hooks
        )
        listing = _listing(project.graph.sources[INBOX_SOURCE])
        events = [] if listing == context.cursor else _observation(context.instance, project, swept)
        return dg.SensorResult(skip_reason=summary(swept), cursor=listing, asset_events=events)

    return ingest_dropped_files


def told(swept: Swept) -> list[str]:
    """Return one line per file that a sweep found."""
    accepted = [
        f"accepted {a.name}: {a.usable} of its {a.rows} rows can be used; now {a.stored.name}" for a in swept.accepted
    ]
    rejected = [f"rejected {r.name}: {r.reason}" for r in swept.rejected]
    return [*accepted, *rejected, *(f"waiting {w.name}: {w.why}" for w in swept.waiting)]


def summary(swept: Swept) -> str:
    """Return one line for a sweep."""
    met = {"accepted": swept.accepted, "rejected": swept.rejected, "waiting": swept.waiting}
    parts = [f"{len(files)} {word} ({', '.join(file.name for file in files)})" for word, files in met.items() if files]
    return "; ".join(parts) or "the drop folder is empty"


def rejection(refused: Refused) -> Alert:
    """Return the alert on a rejected file."""
    facts = {"file": refused.name, "stored": f"{refused.stored.parent.name}/{refused.stored.name}"}
    return Alert("file_rejected", f"the dropped file {refused.name} was rejected", refused.reason, facts)


def _observation(instance: dg.DagsterInstance, project: Project, swept: Swept) -> list[dg.AssetObservation]:
    """Observe the accepted files, unless their version is the one observed last.

    The recorded version decides, not what this sweep did. So a change is also reported when its observation was lost,
    or when it was made by `drirl ingest` or by hand.
    """
    folder = project.graph.sources[INBOX_SOURCE]
    version = source_version(folder)
    if observed_version(instance, INBOX_SOURCE) == version:
        return []
    metadata = {
        "path": dg.MetadataValue.path(str(folder)),
        "files": len(os.listdir(folder)),
        "accepted": ", ".join(accepted.name for accepted in swept.accepted) or "none by this sweep",
    }
    return [dg.AssetObservation(INBOX_SOURCE, tags={VERSION_TAG: version}, metadata=metadata)]


def _listing(folder: Path) -> str:
    """Return a short text that changes with the names, sizes and dates of the files; cheaper than reading them."""
    entries = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder))
    return hashlib.sha256(repr((str(folder), entries)).encode("utf-8", "backslashreplace")).hexdigest()[:16]
