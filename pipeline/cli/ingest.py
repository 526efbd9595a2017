"""`drirl ingest`: process the drop folder once, by hand."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from drirl_core.project import Project
from drirl_core.prompts.inbox import InboxBusy, Swept, sweep

_COLOURS = {"accepted": "green", "rejected": "red", "waiting": "yellow"}


def ingest(project: Project) -> Swept:
    """Process the drop folder; files that may still be written are waited for once and then tried again.

    Args:
        project: gives the drop folder.

    Returns:
        What both passes did, and which files still wait after the second.

    Raises:
        ConfigError: no drop folder is configured, or it is not a usable directory.
        DataError: it cannot be used at the moment.
    """
    most_lost = project.config.checks.max_lost_fraction
    first = sweep(project, most_lost=most_lost)
    if not first.waiting:
        return first
    time.sleep(project.config.operations.inbox.settle_s)
    try:
        second = sweep(project, most_lost=most_lost)
    except InboxBusy:  # the sensor is processing the folder now
        return first
    return Swept([*first.accepted, *second.accepted], [*first.rejected, *second.rejected], second.waiting)


def show(swept: Swept, config: Path, console: Console) -> None:
    """Print the result for each file, and what to do next.

    Args:
        swept: the result of `ingest`.
        config: the file the user named.
        console: where to print.
    """
    lines = [
        ("accepted", a.name, f"{a.usable} of its {a.rows} rows can be used; now {a.stored}") for a in swept.accepted
    ]
    lines += [("rejected", r.name, f"{r.reason} (now {r.stored})") for r in swept.rejected]
    lines += [("waiting", w.name, w.why) for w in swept.waiting]
    for word, name, what in lines:
        console.print(Text.assemble((f"{word:<8}", _COLOURS[word]), f"  {name}: {what}"), soft_wrap=True)
    if not lines:
        console.print("the drop folder is empty")
    if swept.accepted:
        console.print(
            f"\n`drirl plan {config}` shows what the new rows make out of date, `drirl run {config}` rebuilds it.",
            highlight=False,
        )
