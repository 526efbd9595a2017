"""Make Dagster's assets out of the nodes of a project's graph."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from drirl_core.config import Config
from drirl_core.errors import DrirlError
from drirl_core.graph.layout import Graph, Node
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, source_version
from drirl_core.project import Project
from pipeline.executors.gpu_spec import gpu_spec, op_tags, pool
from pipeline.running.launch import RETRY_DELAY_S, run_stages
from pipeline.wiring.asset_checks import stage_checks
from pipeline.wiring.code_references import code_references
from pipeline.wiring.conditions import RETRAIN

OWNERS = ["team:drirl"]
RETRY = dg.RetryPolicy(max_retries=1, delay=RETRY_DELAY_S)
"""A heavy step that dies is started once more and goes on from its last checkpoint."""


def all_definitions(project: Project, retry: dg.RetryPolicy | None = RETRY, gates_block: bool = True) -> dg.Definitions:
    """Return the assets and checks of the graph, without automation.

    Args:
        project: the configuration and its graph.
        retry: what happens when a heavy step dies.
        gates_block: whether a gate that fails fails the run.
    """
    return dg.Definitions(assets=graph_assets(project, retry), asset_checks=graph_checks(project, gates_block))


def graph_assets(project: Project, retry: dg.RetryPolicy | None = RETRY) -> list[dg.AssetsDefinition]:
    """Return the sources and the assets of all stages.

    Args:
        project: the configuration and its graph.
        retry: what happens when a heavy step dies.
    """
    groups = dict.fromkeys(STAGES[stage].group for stage in project.graph.stages)
    return [asset for group in groups for asset in group_assets(group, project, retry)]


def group_assets(group: str, project: Project, retry: dg.RetryPolicy | None = RETRY) -> list[dg.AssetsDefinition]:
    """Return the assets of one group: its sources, and the assets of its stages.

    Args:
        group: name of the group.
        project: the configuration and its graph.
        retry: what happens when a heavy step dies.
    """
    graph = project.graph
    nodes = [node for node in graph.nodes.values() if STAGES[node.stage].group == group]
    sources = [name for name in graph.sources if _group_of_source(name, graph) == group]
    observed = [_observe_sources(group, sources, graph, project.config)] if sources else []
    made = [_materialize(name, members, project, retry) for name, members in steps(nodes, project.config)]
    return [*observed, *made]


def graph_checks(project: Project, gates_block: bool = True) -> list[dg.AssetChecksDefinition]:
    """Return the checks of all stages that have some.

    Args:
        project: the configuration, which holds the bounds, and its graph.
        gates_block: whether a gate that fails fails the run.
    """
    return [stage_checks(stage, project, gates_block) for stage in project.graph.stages if STAGES[stage].checks]


def steps(nodes: Sequence[Node], config: Config) -> list[tuple[str, list[Node]]]:
    """Divide nodes among steps, each of which runs in one process.

    Args:
        nodes: the nodes, in topological order.
        config: `execution.category_steps` decides whether the categories of a stage share a step.

    Returns:
        Name and members of each step.
    """
    together = config.execution.category_steps == "together"
    divided: dict[str, list[Node]] = {}
    for node in nodes:
        shared = together and STAGES[node.stage].per_category
        divided.setdefault(f"{node.stage}_by_category" if shared else node.name, []).append(node)
    return list(divided.items())


def _group_of_source(source: str, graph: Graph) -> str:
    """Put a source beside the first asset that reads it."""
    return next(STAGES[node.stage].group for node in graph.nodes.values() if source in node.inputs)


def _materialize(name: str, nodes: list[Node], project: Project, retry: dg.RetryPolicy | None) -> dg.AssetsDefinition:
    heavy, config = STAGES[nodes[0].stage].heavy, project.config
    spec = gpu_spec(heavy, config)

    @dg.multi_asset(
        name=name,
        specs=[_spec(node, config) for node in nodes],
        can_subset=len(nodes) > 1,
        pool=pool(spec),
        retry_policy=retry if heavy else None,
        op_tags={"drirl/cost": "heavy" if heavy else "light", **op_tags(spec, config.execution.executor)},
    )
    def materialize(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        selected = [node for node in nodes if dg.AssetKey(node.name) in context.selected_asset_keys]
        yield from run_stages(context, selected, project)

    return materialize


def _spec(node: Node, config: Config) -> dg.AssetSpec:
    stage = STAGES[node.stage]
    tags = {"drirl/stage": node.stage, "drirl/cost": "heavy" if stage.heavy else "light"}
    tags |= {f"drirl/{what}": of for what, of in (("category", node.category), ("suite", node.suite)) if of}
    return dg.AssetSpec(
        node.name,
        deps=list(node.inputs),
        group_name=stage.group,
        description=node.description,
        code_version=code_version(node, config),
        automation_condition=RETRAIN,
        owners=OWNERS,
        kinds={"python", "pytorch"} if stage.heavy else {"python"},
        tags=tags,
        metadata=code_references(stage.function, config),
    )


def _observe_sources(group: str, names: Sequence[str], graph: Graph, config: Config) -> dg.AssetsDefinition:
    references = code_references("drirl_core.graph.versions:source_version", config)
    specs = [_source_spec(name, graph.sources[name], group, references) for name in names]

    def observe(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        problems: list[str] = []
        for name in names:
            if dg.AssetKey(name) not in context.selected_asset_keys:
                continue
            path = graph.sources[name]
            try:
                version = source_version(path)
            except DrirlError as error:
                problems.append(f"{name}: {error}")
                continue
            metadata = {"path": dg.MetadataValue.path(str(path)), "bytes": _size(path)}
            yield dg.ObserveResult(asset_key=name, data_version=dg.DataVersion(version), metadata=metadata)
        if problems:
            raise dg.Failure("\n".join(problems), allow_retries=False)

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", dg.BetaWarning
        )  # the decorator for one source alone knows no owners and no kinds
        return dg.multi_observable_source_asset(name=f"observe_{group}_sources", specs=specs, can_subset=True)(observe)


def _size(path: Path) -> int:
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )


def _source_spec(name: str, path: Path, group: str, references: Mapping[str, Any]) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        group_name=group,
        description=f"Input {path.name}, a file or a folder; its version is the hash of its bytes.",
        owners=OWNERS,
        kinds={"file", path.suffix.lstrip(".") or "folder"},
        tags={"drirl/stage": "source"},
        metadata={"path": dg.MetadataValue.path(str(path)), **references},
    )
