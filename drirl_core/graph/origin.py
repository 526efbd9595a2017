"""Whether an artifact came from the current settings: an experiment of `drirl run --set` did not."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from drirl_core.graph.reasons import causes
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.store.manifest import artifacts_among


def other_settings(project: Project, artifact: Artifact) -> list[str]:
    """Say how the settings and algorithms that made an artifact, and all its inputs, differ from the current ones.

    Data do not count: rows that arrive while a policy trains make its candidate no experiment. Where different settings
    gave the same content, it is enough that the current ones are among them.

    Args:
        project: the current configuration, its graph and its store.
        artifact: any artifact of the graph.

    Returns:
        The differences; none when the current settings make it.

    Raises:
        UnreachableError: the object store cannot be reached.
    """
    graph, store = project.graph, project.store

    @functools.cache
    def differences(name: str, version: str) -> tuple[str, ...]:
        if name not in graph.nodes:
            return (f"{name} is no asset of the present settings",)
        known: tuple[str, ...] = ()
        for build in _builds(store, name, version):
            own = [f"{name}: {cause}" for cause in causes(graph.nodes[name], build, {}, project)]
            found = own or [
                text for need, made in artifacts_among(build["inputs"]).items() for text in differences(need, made)
            ]
            if not found:
                return ()
            known = known or tuple(dict.fromkeys(found))
        return known or (f"nothing is known of how {name} {version} was made",)

    return list(differences(artifact.asset, artifact.version))


def _builds(store: ArtifactStore, name: str, version: str) -> Iterator[Mapping[str, Any]]:
    """Yield what is known of every build that gave a version; the manifest, which is already loaded, comes first."""
    manifest = store.manifest(name, version)
    if manifest:
        yield manifest
    yield from (record for record in store.records(name) if record["version"] == version)
