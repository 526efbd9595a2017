"""What a run would do, read from the artifact store alone: without Dagster, and without starting anything."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from drirl_core.errors import ConfigError, nearest
from drirl_core.graph.exclusion import deciding_inputs, may_be_there, suites_left_out, unchanged_by
from drirl_core.graph.layout import Graph, Node, suite_source
from drirl_core.graph.reasons import Cause, causes
from drirl_core.graph.versions import code_version, safety_policy_for, source_version
from drirl_core.project import Project
from drirl_core.store.artifacts import fingerprint

STALE = "stale"
"""Selects what was built earlier and would come out differently now."""

State = Literal["up_to_date", "will_run", "may_run"]


@dataclass(frozen=True)
class PlannedAsset:
    """What would happen to one asset.

    Args:
        name: name of the asset.
        state: `up_to_date`: its artifact exists; `will_run`: it has to be made; `may_run`: it depends on one that will
            run, and is recomputed unless that one comes out unchanged.
        why: the reason, in a few words.
        version: version of its artifact, when it is up to date.
        causes: the reasons one by one; none for `may_run`.
        waits_for: inputs that will or may run before it.
    """

    name: str
    state: State
    why: str
    version: str | None = None
    causes: tuple[Cause, ...] = ()
    waits_for: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether it will or may run."""
        return self.state != "up_to_date"

    @property
    def stale(self) -> bool:
        """Whether it was built earlier and is pending now."""
        return self.pending and all(cause.kind != "not_made" for cause in self.causes)


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Args:
        assets: every requested asset, in the order of the graph.
        left_out: stale assets that `stale` selects and need one that was never made.
        known: versions of all assets that were found to be up to date, requested or not.
        notes: what reading the benchmark suites showed, in sentences for people.
    """

    assets: Mapping[str, PlannedAsset]
    left_out: Sequence[str] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def pending(self) -> list[PlannedAsset]:
        """The assets that will or may run."""
        return [asset for asset in self.assets.values() if asset.pending]

    @property
    def up_to_date(self) -> bool:
        """Whether there is nothing to do."""
        return not self.pending


def plan(project: Project, select: Iterable[str] | None = None) -> Plan:
    """Walk the graph and look up what is in the store.

    Args:
        project: the configuration, its graph and its store.
        select: names of assets, `*` and `?` allowed, or `stale`: what was built earlier and would come out differently
            now, with what follows from it; None for all. What they need is planned as well.

    Returns:
        State and reason of each asset.

    Raises:
        ConfigError: a selected name is no asset, or the safety policy cannot be used.
        DataError: a source file cannot be read, or a suite whose prompts must be left out.
        ArtifactError: the object store cannot be reached.
    """
    graph, names = project.graph, None if select is None else list(select)
    if names is None or STALE not in names:
        planned, notes = _walk(project, with_ancestors(graph, names))
        return Plan(planned, known=_versions(planned), notes=notes)
    planned, notes = _walk(project, graph.nodes.values())
    stale, left_out = _stale(planned, graph)
    wanted = with_ancestors(graph, [*(name for name in names if name != STALE), *stale])
    return Plan({node.name: planned[node.name] for node in wanted}, left_out, _versions(planned), notes)


def _walk(project: Project, nodes: Iterable[Node]) -> tuple[dict[str, PlannedAsset], list[str]]:
    """Plan nodes that are in the order of the graph, all they depend on among them; return notes on suites as well."""
    nodes = list(nodes)
    safety_policy_for(nodes, project.config)  # a file that cannot be used is no matter for hours later
    needed = {name for node in nodes for name in node.inputs}
    versions = {name: source_version(path) for name, path in project.graph.sources.items() if name in needed}
    planned: dict[str, PlannedAsset] = {}
    unchanged: dict[str, set[str]] = {}
    for node in nodes:
        found, key = None, ""
        if all(name in versions for name in node.inputs):
            code = code_version(node, project.config)
            # To compare suites with many prompts takes time, so it is done only where it decides.
            if may_be_there(node, code, versions, project):
                key = fingerprint(node.name, code, deciding_inputs(node, versions, project))
                found = project.store.find(node.name, key, fetch=False)
        if found:
            unchanged[node.name] = set(unchanged_by(node, key, versions, project))
            versions[node.name] = found.version
            planned[node.name] = PlannedAsset(node.name, "up_to_date", "nothing changed", found.version)
        else:
            planned[node.name] = _pending(node, versions, project)
    return planned, _suite_notes(project, planned, unchanged)


def _suite_notes(project: Project, planned: Mapping[str, PlannedAsset], unchanged: Mapping[str, set[str]]) -> list[str]:
    """Say of each suite that is about to be measured that it changes no training data, if that is so.

    Args:
        project: the configuration and its graph.
        planned: every planned asset.
        unchanged: by asset that is up to date, the suites that are new to it and change nothing in it.
    """
    graph = project.graph
    readers = [node.name for node in graph.nodes.values() if suites_left_out(node, project.config)]
    if any(name in planned and planned[name].pending for name in readers):  # the causes say what changes
        return []
    new = set[str]().union(*(unchanged[name] for name in readers if name in unchanged))
    return [
        f"Suite {node.suite} was read: it repeats no training prompt that was not left out before, so no data set "
        "changes because of it, and nothing trains again."
        for node in graph.nodes.values()
        if node.suite and suite_source(node.suite) in new and node.name in planned and planned[node.name].pending
    ]


def _stale(planned: Mapping[str, PlannedAsset], graph: Graph) -> tuple[list[str], list[str]]:
    """Choose what was built earlier and is stale now, and what follows from it.

    Returns:
        Names of the assets, and of stale ones left out because they need an asset that was never made.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    for asset in planned.values():
        if asset.stale:
            pending = (name for name in graph.nodes[asset.name].inputs if name in planned and planned[name].pending)
            (chosen if all(name in chosen for name in pending) else left_out).append(asset.name)
    return chosen, left_out


def _versions(planned: Mapping[str, PlannedAsset]) -> dict[str, str]:
    return {name: asset.version for name, asset in planned.items() if asset.version}


def with_ancestors(graph: Graph, select: Iterable[str] | None) -> list[Node]:
    """Return the selected nodes and all they depend on, in the order of the graph.

    Args:
        graph: the graph.
        select: names, `*` and `?` allowed; None for all.

    Raises:
        ConfigError: a name matches no asset.
    """
    if select is None:
        return list(graph.nodes.values())
    wanted: set[str] = set()
    for pattern in select:
        matches = fnmatch.filter(graph.nodes, pattern)
        if not matches:
            raise ConfigError(
                f"{pattern!r} is no asset of this configuration; {nearest(pattern, [*graph.nodes, STALE])}"
            )
        wanted.update(matches)
    for node in reversed(graph.nodes.values()):
        if node.name in wanted:
            wanted.update(node.inputs)
    return [node for node in graph.nodes.values() if node.name in wanted]


def _pending(node: Node, versions: Mapping[str, str], project: Project) -> PlannedAsset:
    """Say how the current state differs from the one that gave the latest artifact.

    Args:
        node: an asset that is not up to date.
        versions: versions of all sources and of the assets that are up to date.
        project: the configuration, its graph and its store.
    """
    store = project.store
    waits_for = tuple(name for name in node.inputs if name not in versions)
    records = store.records(node.name)
    if records and store.is_complete(node.name, records[0]["version"]):
        found = causes(node, records[0], versions, project)
        if waits_for:  # what is not known to differ may come out unchanged
            found = [cause for cause in found if cause.kind != "unknown"]
    else:
        found = [Cause("gone" if store.was_made(node.name) else "not_made")]
    why = _listed(map(str, found), "; ") if found else f"waits for {_listed(waits_for)}"
    return PlannedAsset(node.name, "will_run" if found else "may_run", why, None, tuple(found), waits_for)


def _listed(names: Iterable[str], between: str = ", ", most: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + rest
