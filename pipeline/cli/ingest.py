"""`drirl ingest`: sweep the drop folder once, by hand."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from drirl_core.project import Project
from drirl_core.prompts.inbox import InboxBusy, Swept, sweep

_COLOURS = {"accepted": "green", "rejected": "red", "waiting": "yellow"}


def ingest(project: Project) -> Swept:
    """Sweep the drop folder; files that are too young are given the time to settle, and a second look.

    Args:
        project: names the drop folder.

    Returns:
        What both looks did, with what is waiting after the second.

    Raises:
        ConfigError: there is no drop folder, or it cannot serve.
        DataError: it cannot be used now.
    """
    first = sweep(project)
    if not first.waiting:
        return first
    time.sleep(project.config.operations.inbox.settle_s)
    try:
        second = sweep(project)
    except InboxBusy:  # the sensor has taken over
        return first
    return Swept([*first.accepted, *second.accepted], [*first.rejected, *second.rejected], second.waiting)


def show(swept: Swept, config: Path, console: Console) -> None:
    """Print what became of each file, and what to do next.

    Args:
        swept: what a sweep did.
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
        console.print("nothing was dropped")
    if swept.accepted:
        console.print(
            f"\n`drirl plan {config}` tells what the new rows make stale, `drirl run {config}` makes it.",
            highlight=False,
        )
