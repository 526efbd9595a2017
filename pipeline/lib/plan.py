"""What a run would do, told from the artifact store alone: without Dagster, and without starting anything."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from drirl_core.artifacts import ArtifactStore, fingerprint
from drirl_core.config import Config
from drirl_core.errors import ConfigError, nearest
from drirl_core.stages import Graph, Node, build_graph, code_version, source_version

_NOT_MADE, _GONE = "not made yet", "its artifact was removed or damaged"

State = Literal["up_to_date", "will_run", "may_run"]


@dataclass(frozen=True)
class PlannedAsset:
    """What would happen to one asset.

    Args:
        name: name of the asset.
        state: `up_to_date`: its artifact exists; `will_run`: it has to be made; `may_run`: it depends on one that will
            run, and is made anew unless that one comes out as before.
        why: the reason, in a few words.
        version: version of its artifact, when it is up to date.
    """

    name: str
    state: State
    why: str
    version: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Args:
        assets: every asset asked for, in the order of the graph.
    """

    assets: Mapping[str, PlannedAsset]

    @property
    def pending(self) -> list[PlannedAsset]:
        """The assets that will or may run."""
        return [asset for asset in self.assets.values() if asset.state != "up_to_date"]

    @property
    def up_to_date(self) -> bool:
        """Whether there is nothing to do."""
        return not self.pending


def plan(config: Config, select: Iterable[str] | None = None) -> Plan:
    """Walk the graph and look up what is in the store.

    Args:
        config: the configuration.
        select: names of assets, `*` and `?` allowed; None for all. What they need is planned as well.

    Returns:
        State and reason of each asset.

    Raises:
        ConfigError: a selected name is no asset.
        DataError: a source file cannot be read.
        ArtifactError: the object store cannot be asked.
    """
    graph, store = build_graph(config), ArtifactStore.of(config)
    chosen = with_ancestors(graph, select)
    needed = {name for node in chosen for name in node.inputs}
    versions = {name: source_version(path) for name, path in graph.sources.items() if name in needed}
    planned: dict[str, PlannedAsset] = {}
    for node in chosen:
        waiting = [name for name in node.inputs if name in planned and planned[name].state != "up_to_date"]
        if waiting:
            made = store.was_made(node.name)
            planned[node.name] = PlannedAsset(
                node.name, "may_run" if made else "will_run", f"depends on {_listed(waiting)}" if made else _NOT_MADE
            )
            continue
        code, inputs = code_version(node, config), {name: versions[name] for name in node.inputs}
        found = store.find(node.name, fingerprint(node.name, code, inputs), fetch=False)
        if found:
            versions[node.name] = found.version
            planned[node.name] = PlannedAsset(node.name, "up_to_date", "nothing changed", found.version)
        else:
            planned[node.name] = PlannedAsset(node.name, "will_run", _reason(store, node, code, inputs))
    return Plan(planned)


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
            raise ConfigError(f"{pattern!r} is no asset of this configuration; {nearest(pattern, graph.nodes)}")
        wanted.update(matches)
    for node in reversed(graph.nodes.values()):
        if node.name in wanted:
            wanted.update(node.inputs)
    return [node for node in graph.nodes.values() if node.name in wanted]


def _reason(store: ArtifactStore, node: Node, code: str, inputs: Mapping[str, str]) -> str:
    """Say how the present state differs from the one that gave the latest artifact."""
    if not store.was_made(node.name):
        return _NOT_MADE
    latest = store.latest(node.name, fetch=False)
    if latest is None:
        return _GONE
    before: Mapping[str, str] = latest.manifest.get("inputs", {})
    changed = [name for name in inputs if before.get(name) != inputs[name]]
    if changed:
        return f"changed: {_listed(changed)}"
    old = str(latest.manifest.get("code_version", ""))
    if old.partition("-")[0] != code.partition("-")[0]:
        return "its algorithm changed"
    return "its settings changed" if old != code else _GONE


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
