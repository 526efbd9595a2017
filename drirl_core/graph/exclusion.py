"""How suites decide training data: by the prompts that they keep out, not by their rows.

Every prompt of a suite is kept out of the training data. A suite that repeats none of them changes no data set, so what
trains on it stays up to date. The stages that compare with the suites name a function in their record
(`Stage.excluded`) that says what the suites keep out; the hash of its answer stands for the suites among the inputs of
their assets. The answer follows from files and settings alone and is kept in a row cache, so that it is computed once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping

from drirl_core import __version__
from drirl_core.config import Config, slice_hash
from drirl_core.errors import ArtifactError
from drirl_core.graph.layout import Node, suite_source
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import contents, deciding
from drirl_core.project import Project
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

EXCLUDED = "source_suites (what they exclude)"
"""Stands for the suites among the inputs of an asset that only leaves their prompts out; no source can have this
name."""
SUITES = "suites"
"""Key, in the record of a build, of the versions that the suites had."""


def deciding_inputs(node: Node, versions: Mapping[str, str], project: Project) -> dict[str, str]:
    """Return the versions of inputs that decide a node; suites count by what they exclude where its record says so.

    Args:
        node: the asset.
        versions: versions of those of its inputs that are known.
        project: the configuration, its graph and its store.

    Returns:
        Versions by name; without `EXCLUDED` while a source is not known, and where the suites decide nothing.

    Raises:
        DataError: a source or a suite cannot be read.
    """
    rest = plain_inputs(node, versions, project.config)
    sources = [name for name in node.inputs if name in project.graph.sources]
    if not suites_left_out(node, project.config) or any(name not in versions for name in sources):
        return rest
    found = _excluded(node, {name: versions[name] for name in sources}, project)
    return {**rest, EXCLUDED: found} if found else rest


def plain_inputs(node: Node, versions: Mapping[str, str], config: Config) -> dict[str, str]:
    """Return the known versions of those inputs of a node that count by themselves."""
    suites = suites_left_out(node, config)
    return {name: versions[name] for name in node.inputs if name in versions and name not in suites}


def may_be_there(node: Node, code: str, versions: Mapping[str, str], project: Project) -> bool:
    """Tell whether an artifact can exist of a node, before its suites are read: only suites may have changed.

    Args:
        node: the asset.
        code: its current code version.
        versions: versions of all its inputs.
        project: the configuration, its graph and its store.
    """
    if not suites_left_out(node, project.config):
        return True
    now = {**plain_inputs(node, versions, project.config), EXCLUDED: ""}
    return any(
        not {"inputs", "code_version"} <= record.keys()  # an older record: nobody knows
        or (record["code_version"] == code and {**record["inputs"], EXCLUDED: ""} == now)
        for record in project.store.records(node.name)
    )


def suites_left_out(node: Node, config: Config) -> tuple[str, ...]:
    """Return those inputs of a node that are suites whose prompts it only leaves out."""
    if not STAGES[node.stage].excluded:
        return ()
    suites = {suite_source(suite.name) for suite in config.benchmarks.suites}
    return tuple(name for name in node.inputs if name in suites)


def suites_of(node: Node, versions: Mapping[str, str], config: Config) -> dict[str, dict[str, str]]:
    """Return what the record of a build says about the suites whose prompts it left out; nothing without such."""
    suites = {name: versions[name] for name in suites_left_out(node, config)}
    return {SUITES: suites} if suites else {}


def unchanged_by(node: Node, key: str, versions: Mapping[str, str], project: Project) -> Iterator[str]:
    """Yield the suites that are new or changed since an asset was built and change nothing in it.

    Args:
        node: an asset that is up to date.
        key: fingerprint under which it was found.
        versions: versions of all sources.
        project: the configuration, its graph and its store.
    """
    suites = suites_left_out(node, project.config)
    records = project.store.records(node.name) if suites else []
    before = next((record.get(SUITES, {}) for record in records if record["fingerprint"] == key), {})
    if before:
        yield from (name for name in suites if before.get(name) != versions[name])


def _excluded(node: Node, sources: Mapping[str, str], project: Project) -> str:
    """Return the hash of what the suites keep out of a node; empty where they decide nothing."""
    stage, config = STAGES[node.stage], project.config
    sections = (*deciding(node, config), "benchmarks.suites")
    settings = slice_hash(config, sections, (*stage.unread, "benchmarks.suites.limit"))
    key = content_key(
        __version__, stage.excluded, stage.version, node.category, settings, contents(config, sections), dict(sources)
    )
    cache = _cache(project.store)
    kept = cache.get_many([key]).get(key) if cache else None
    if kept is not None:
        return kept.decode()
    answer = lazy(stage.excluded)(config, node.category, project.graph.sources)
    found = "" if answer is None else hashlib.sha256(json.dumps(answer).encode()).hexdigest()[:16]
    if cache:
        with contextlib.suppress(ArtifactError):  # a cache that cannot be written only costs time
            cache.put_many({key: found.encode()})
    return found


def _cache(store: ArtifactStore) -> RowCache | None:
    """Return the cache of answers; None in a store that cannot be written, where each is recomputed."""
    with contextlib.suppress(ArtifactError, OSError):
        return RowCache(store.cache_path("excluded"))
    return None
