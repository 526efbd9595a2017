"""From an asset to the files of its latest materialization: the one place where versions are looked up."""

from collections.abc import Iterable, Mapping

import dagster as dg

from drirl_core.errors import ArtifactError, DrirlError
from drirl_core.graph.layout import Graph, Node
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact

VERSION_TAG = "dagster/data_version"


def recorded_version(instance: dg.DagsterInstance, name: str) -> str | None:
    """Return the data version of an asset's latest materialization, or None when there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    materialization = event.asset_materialization if event else None
    return (materialization.tags or {}).get(VERSION_TAG) if materialization else None


def observed_version(instance: dg.DagsterInstance, name: str) -> str | None:
    """Return the data version of a source's latest observation, or None when it was never looked at."""
    records = instance.fetch_observations(dg.AssetKey(name), limit=1).records
    observation = records[0].asset_observation if records else None
    return observation.tags.get(VERSION_TAG) if observation else None


def artifact_of(instance: dg.DagsterInstance, name: str, project: Project) -> Artifact:
    """Open the artifact of an asset's latest materialization.

    Args:
        instance: where materializations are recorded.
        name: name of the asset.
        project: names the artifact store.

    Raises:
        ArtifactError: the asset was never materialized, or its files are gone or damaged; the message says what to do.
    """
    version = recorded_version(instance, name)
    if version is None:
        raise ArtifactError(
            f"{name} has not been materialized; materialize it first (in the graph: select it and press Materialize)"
        )
    return project.store.open(name, version)


def input_versions(instance: dg.DagsterInstance, nodes: Iterable[Node], project: Project) -> dict[str, str]:
    """Look up the version of every input of `nodes`.

    Assets are taken at their latest materialization, sources are hashed now.

    Args:
        instance: where materializations are recorded.
        nodes: the assets about to be built.
        project: names the sources and the artifact store.

    Returns:
        Version by name of the input.

    Raises:
        dg.Failure: inputs are missing or damaged; it lists all of them, and a retry would not help.
    """
    nodes = list(nodes)
    graph = project.graph
    built_here = {node.name for node in nodes}
    versions: dict[str, str] = {}
    problems: list[str] = []
    for name in dict.fromkeys(name for node in nodes for name in node.inputs if name not in built_here):
        try:
            versions[name] = (
                source_version(graph.sources[name])
                if name in graph.sources
                else artifact_of(instance, name, project).version
            )
        except DrirlError as error:
            problems.append(str(error))
    if problems:
        raise dg.Failure(description="\n".join(problems), allow_retries=False)
    return versions


def stale_records(instance: dg.DagsterInstance, versions: Mapping[str, str | None], graph: Graph) -> list[str]:
    """Return the assets whose latest materialization is not the version they should have."""
    return [name for name in graph.nodes if versions.get(name) and recorded_version(instance, name) != versions[name]]
