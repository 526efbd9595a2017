"""`drirl gc`: show which versions are no longer needed, and delete them on request."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from drirl_core.project import Project
from drirl_core.retention import Decision, Deleted, Key, Stored, decide, named, place_of, promoted, require_quiet
from drirl_core.store.artifacts import ArtifactStore


def collect(project: Project, keep_hours: float, deletes: bool, again: str, console: Console) -> None:
    """Print what can be deleted, and delete it on request.

    Args:
        project: names the artifact store.
        keep_hours: versions used within the last so many hours are kept.
        deletes: whether to delete.
        again: the command that deletes, to be printed.
        console: where to print.

    Raises:
        ArtifactError: a build or a run is in progress on this machine, the promoted policies are unknown, or an
            object store cannot be reached.
    """
    store = project.store
    from pipeline.instance.home import chosen_home
    from pipeline.running.run import alone

    if not deletes:
        _show(_decision(store, keep_hours), store, console)
        console.print(Text(f"\nNothing was deleted. To delete: {again}"), soft_wrap=True)
        return
    with alone(chosen_home(), project.config):
        require_quiet(store.root)
        decision = _decision(store, keep_hours)
        _show(decision, store, console)
        deleted = place_of(store).delete(decision)
    _show_deleted(decision, deleted, console)


def collect_json(project: Project, keep_hours: float, deletes: bool) -> None:
    """Print what can be deleted, and what was deleted on request, as JSON on standard output.

    Args:
        project: names the artifact store.
        keep_hours: versions used within the last so many hours are kept.
        deletes: whether to delete.

    Raises:
        ArtifactError: as `collect`.
    """
    from pipeline.instance.home import chosen_home
    from pipeline.running.run import alone

    store, deleted = project.store, None
    if deletes:
        with alone(chosen_home(), project.config):
            require_quiet(store.root)
            decision = _decision(store, keep_hours)
            deleted = place_of(store).delete(decision)
    else:
        decision = _decision(store, keep_hours)
    document = {
        "store": store.place,
        "kept": [_entry(one) for one in decision.kept],
        "removable": [_entry(one) for one in decision.removable],
        "leftovers": [dataclasses.asdict(one) for one in decision.leftovers],
        "missing": [{"asset": asset, "version": version} for asset, version in decision.missing],
        "unreadable": [{"asset": asset, "version": version} for asset, version in decision.unreadable],
        "deleted": None
        if deleted is None
        else {
            "versions": [_entry(one) for one in deleted.versions],
            "leftovers": [dataclasses.asdict(one) for one in deleted.leftovers],
            "bytes": deleted.bytes,
        },
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def _entry(stored: Stored) -> dict[str, Any]:
    return {"asset": stored.asset, "version": stored.version, "bytes": stored.bytes, "used_at": stored.used_at}


def _show_deleted(decision: Decision, deleted: Deleted, console: Console) -> None:
    done = (
        f"Deleted {len(deleted.versions)} versions and {len(deleted.leftovers)} leftovers, "
        f"{deleted.bytes / 1e6:,.1f} MB."
    )
    console.print(f"\n{done}", highlight=False)
    spared = len(decision.removable) - len(deleted.versions)
    if spared:
        _warn(
            f"{spared} versions are kept: meanwhile another machine reused them, or artifacts made from them", console
        )


def _decision(store: ArtifactStore, keep_hours: float) -> Decision:
    newer_than = time.time() - keep_hours * 3600
    # First: the promoted policies and the named results must be known before anything else is read.
    roots = promoted(store) | named(store)
    stock = place_of(store).take_stock(newer_than)
    recorded = _recorded(sorted({asset for asset, _ in stock.artifacts})) & set(
        stock.artifacts
    )  # a home may be used with other stores too
    return decide(stock, roots | recorded, newer_than)


def _recorded(names: Iterable[str]) -> set[Key]:
    """Return the newest version of each asset that the Dagster home has recorded."""
    from pipeline.running.run import open_instance
    from pipeline.wiring.resolve import recorded_version

    with open_instance() as instance:
        versions = {name: recorded_version(instance, name) for name in names}
    return {(name, version) for name, version in versions.items() if version}


def _show(decision: Decision, store: ArtifactStore, console: Console) -> None:
    table = Table("asset", "kept", "removable", "MB removable", box=None, pad_edge=False)
    for asset in sorted({stored.asset for stored in (*decision.kept, *decision.removable)}):
        kept = [stored for stored in decision.kept if stored.asset == asset]
        removable = [stored for stored in decision.removable if stored.asset == asset]
        table.add_row(escape(asset), str(len(kept)), str(len(removable)), f"{_megabytes(removable):,.1f}")
    console.print(table)
    console.print(
        f"{store.place}: {len(decision.kept)} versions kept ({_megabytes(decision.kept):,.1f} MB), "
        f"{len(decision.removable)} removable "
        f"({_megabytes(decision.removable):,.1f} MB), {len(decision.leftovers)} leftovers",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    for asset, version in decision.unreadable:
        _warn(
            f"{asset} {version} is kept: its manifest cannot be read; delete {store.place}/{asset}/{version} by hand",
            console,
        )
    for asset, version in decision.missing:
        _warn(
            f"{asset} {version} is needed by what is kept but is not in the store; what it was made from is unknown",
            console,
        )


def _warn(text: str, console: Console) -> None:
    console.print(Text(f"note: {text}", style="yellow"), soft_wrap=True)


def _megabytes(stored: Iterable[Stored]) -> float:
    return sum(one.bytes for one in stored) / 1e6
