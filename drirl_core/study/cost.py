"""What a study will cost: every stage that several cells need is counted once, in the first of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drirl_core.errors import DrirlError
from drirl_core.graph.estimates import estimates
from drirl_core.graph.exclusion import deciding_inputs
from drirl_core.graph.plan import plan
from drirl_core.graph.versions import code_version, source_version
from drirl_core.project import Project
from drirl_core.store.remote import UnreachableError
from drirl_core.study.file import Cell


@dataclass(frozen=True)
class CellCost:
    """What one cell adds to a study.

    Args:
        cell: the cell.
        pending: assets that have to be made and that no cell before it makes.
        shared: assets that have to be made and that a cell before it makes.
        seconds: of `pending`, as far as earlier builds tell; None when nothing is known of them.
        unknown: those of `pending` of which nothing is known.
        problem: why the cell cannot be planned, and so not be run; empty where it can.
    """

    cell: Cell
    pending: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    seconds: float | None = None
    unknown: tuple[str, ...] = ()
    problem: str = ""


def costs(cells: Sequence[Cell], projects: Mapping[str, Project]) -> list[CellCost]:
    """Plan every cell, and count what it adds to the cells before it.

    Args:
        cells: in the order in which they run.
        projects: project of each cell, by the name of its result.

    Returns:
        One record per cell; a cell with a source or suite that cannot be read has the problem instead of costs.
    """
    made: set[str] = set()
    found = []
    for cell in cells:
        project = projects[cell.result]
        try:
            todo, identity = plan(project), identities(project)
        except UnreachableError:
            raise
        except DrirlError as error:
            found.append(CellCost(cell, problem=str(error)))
            continue
        known = estimates(todo, project)
        waiting = [asset.name for asset in todo.pending]
        new = tuple(name for name in waiting if identity[name] not in made)
        shared = tuple(name for name in waiting if identity[name] in made)
        made.update(identity[name] for name in waiting)
        seconds = {name: known[name].seconds for name in new}
        told = [value for value in seconds.values() if value is not None]
        unknown = tuple(name for name, value in seconds.items() if value is None)
        found.append(CellCost(cell, new, shared, sum(told) if told or not new else None, unknown))
    return found


def identities(project: Project) -> dict[str, str]:
    """Return a digest per asset of all that decides it, before anything is made: equal digests mean equal artifacts.

    Args:
        project: the configuration and its graph.
    """
    found = {name: source_version(path) for name, path in project.graph.sources.items()}
    for node in project.graph.nodes.values():
        inputs = deciding_inputs(node, {name: found[name] for name in node.inputs}, project)
        parts = [node.name, code_version(node, project.config), inputs]
        found[node.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {name: found[name] for name in project.graph.nodes}
