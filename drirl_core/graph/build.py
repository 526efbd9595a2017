"""Build assets: one of them into a published artifact, or all of them in order.

Dagster's wiring calls the same functions, so that a stage runs the same way under `dagster dev`, from Python and from
tests.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.checks.asking import require_kept
from drirl_core.config import Config, resolved
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph.exclusion import deciding_inputs, suites_of
from drirl_core.graph.layout import INBOX_SOURCE, Graph, Node, dataset_name
from drirl_core.graph.processes import Job, build_together, count_for
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, named_contents, source_version
from drirl_core.project import Project
from drirl_core.reporting import Plot, Reporter
from drirl_core.store.artifacts import Artifact, ArtifactStore, Workspace, fingerprint

__all__ = ["FIRST_STAGE", "Context", "build", "build_each", "context_of", "run_all"]

FIRST_STAGE = "prompt_pool"
"""The stage before which models and prompts are checked."""


@dataclass(frozen=True)
class Context:
    """Everything a stage function may use.

    Args:
        config: the complete configuration.
        category: the category it serves, or None.
        inputs: directory of each upstream artifact, and file of each source, by asset name.
        out: directory that becomes the artifact.
        scratch: directory that survives a crash.
        store: artifact store, for its row caches.
        reporter: where to send progress.
        suite: the benchmark suite it serves, or None.
        graph: all assets, for a stage that describes them.
        asset: name of the asset that is built.
        key: hash of its code, settings and inputs; the store notes under it which version they gave.
        versions: version of each input, by asset name.
        process: of several processes that train together the index of this one, from 0.
        processes: how many there are.
    """

    config: Config
    category: str | None
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    store: ArtifactStore
    reporter: Reporter
    suite: str | None = None
    graph: Graph = field(default_factory=Graph)
    asset: str = ""
    key: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    process: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes the artifact."""
        return self.process == 0

    @property
    def shards(self) -> int:
        """Among how many processes the weights of a policy that is trained are divided; 1 where each has them all."""
        return self.processes if self.config.execution.sharding == "fsdp2" else 1

    @property
    def project(self) -> Project:
        """The configuration with this context's own graph and store, for code that takes a project."""
        return Project.of(self.config, self.graph, self.store)

    def named(self, prefix: str) -> dict[str, Path]:
        """Return the inputs whose name is `prefix` or starts with `prefix_`, keyed by what follows."""
        return {
            name.removeprefix(prefix).lstrip("_"): path
            for name, path in self.inputs.items()
            if name == prefix or name.startswith(f"{prefix}_")
        }

    def datasets(self) -> dict[str, Path]:
        """Return the data sets among the inputs by category, `helpful` among them, in alphabetical order."""
        found = self.named("safety_dataset")
        if dataset_name(taxonomy.HELPFUL) in self.inputs:
            found[taxonomy.HELPFUL] = self.inputs[dataset_name(taxonomy.HELPFUL)]
        return dict(sorted(found.items()))


Run = Callable[[Node, Project, Mapping[str, str], Workspace, Reporter, str], dict[str, Any]]
"""Calls the function of a stage, which fills the workspace, given versions of the inputs and the key."""


def build(
    node: Node, project: Project, versions: Mapping[str, str], reporter: Reporter, run: Run | None = None
) -> tuple[Artifact, bool, dict[str, Any]]:
    """Build one asset, or reuse the artifact that equal inputs gave earlier.

    Args:
        node: the asset.
        project: the configuration, its graph and its store.
        versions: version of each of the node's inputs.
        reporter: where to send progress.
        run: calls the function of the node's stage; None to do so here, or in processes that are started for it.

    Returns:
        The artifact, whether it was reused rather than built, and the stage's metadata for display (plots and tables
        included; empty when reused).

    Raises:
        DrirlError: an input is missing or bad, the stage failed, or, before the first one, the run cannot work; the
            message says how to fix it.
    """
    store = project.store
    missing = [name for name in node.inputs if name not in versions]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        raise ArtifactError(f"{node.name} needs {', '.join(missing)}, which {have} not been materialized")
    given = {name: versions[name] for name in node.inputs}
    named = named_contents(node, project.config)
    code = code_version(node, project.config, named)  # of these contents, which are hashed again when it is done
    inputs = deciding_inputs(node, given, project)
    key = fingerprint(node.name, code, inputs)
    with store.building(node.name, key, reporter.log) as workspace:
        found = store.find(node.name, key)
        if found:
            store.touch(node.name, key, found.version)
            reporter.log(f"{node.name}: unchanged, version {found.version} is reused")
            return found, True, {}
        store.require_writable()
        if node.stage == FIRST_STAGE:
            _look_ahead(project)
        started = time.monotonic()
        shown = (run or _run)(node, project, given, workspace, reporter, key)
        changed = _changed_meanwhile(node, project, given, named)
        if changed.keys() == {INBOX_SOURCE}:
            reporter.log(
                f"{node.name}: the drop folder changed while it was read; building again from what it holds now"
            )
            shutil.rmtree(workspace.out)
            return build(node, project, {**versions, **changed}, reporter, run)
        _refuse(node, project.graph, changed)
        seconds = round(time.monotonic() - started, 2)
        plain = {name: value for name, value in shown.items() if isinstance(value, int | float | str)}
        details = {
            "metadata": {**plain, "seconds": seconds},
            "plots": _plots(shown, workspace.out),
            "inputs": inputs,
            **suites_of(node, given, project.config),
            "code_version": code,
            "contents": named,
            "config": resolved(project.config),
        }
        artifact = store.publish(node.name, key, workspace, details=details, volatile=STAGES[node.stage].volatile)
        return artifact, False, {**_moved(shown, workspace.out, artifact.path), "seconds": seconds}


def run_all(project: Project, reporter: Reporter) -> dict[str, Artifact]:
    """Build every asset in order, in this process and without Dagster, and stop at the first that breaks a check.

    Args:
        project: the configuration, its graph and its store.
        reporter: where to send progress.

    Returns:
        The artifacts by name of the asset.

    Raises:
        CheckError: an artifact breaks a blocking check: leakage between splits, a reward model below its floor, NaN.
            Gates of a promotion stop nothing here.
        DrirlError: a source cannot be read, or a stage failed; the message says how to fix it.
    """
    built: dict[str, Artifact] = {}
    for node, artifact in build_each(project, project.graph.nodes.values(), reporter):
        require_kept(node, artifact.path, project)
        built[node.name] = artifact
    return built


def build_each(project: Project, nodes: Iterable[Node], reporter: Reporter) -> Iterator[tuple[Node, Artifact]]:
    """Build assets one after the other in this process, and yield each as soon as it is built.

    Args:
        project: the configuration, its graph and its store.
        nodes: in topological order, with everything that they need.
        reporter: where to send progress.

    Raises:
        DrirlError: a source cannot be read, or a stage failed; the message says how to fix it.
    """
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    for node in nodes:
        artifact, _, _ = build(node, project, versions, reporter)
        yield node, artifact
        versions[node.name] = artifact.version


def _look_ahead(project: Project) -> None:
    """Refuse a run whose models or prompts will not work, before its first stage."""
    from drirl_core.preflight import require_sound  # it reads the files of several stages, and may load torch

    require_sound(project)


def _run(
    node: Node, project: Project, versions: Mapping[str, str], workspace: Workspace, reporter: Reporter, key: str
) -> dict[str, Any]:
    """Call the function of a node's stage, here or in several processes; it fills the workspace."""
    count = count_for(node, project.config, reporter)
    if count > 1:
        return build_together(Job(node, project.config, versions, workspace, key), count, reporter)
    return lazy(STAGES[node.stage].function)(context_of(node, project, versions, workspace, reporter, key=key))


def context_of(
    node: Node,
    project: Project,
    versions: Mapping[str, str],
    workspace: Workspace,
    reporter: Reporter,
    **place: Any,
) -> Context:
    """Return what the function of a node's stage may use.

    Args:
        node: the asset.
        project: the configuration, its graph and its store.
        versions: version of each of the node's inputs.
        workspace: directories of the build.
        reporter: where to send progress.
        **place: `key`, `process` and `processes` of the context.
    """
    sources, store = project.graph.sources, project.store
    return Context(
        project.config,
        node.category,
        {
            name: sources[name] if name in sources else store.open(name, version).path
            for name, version in versions.items()
        },
        workspace.out,
        workspace.scratch,
        store,
        reporter,
        node.suite,
        project.graph,
        node.name,
        versions=versions,
        **place,
    )


def _changed_meanwhile(
    node: Node, project: Project, versions: Mapping[str, str], named: Mapping[str, str]
) -> dict[str, str]:
    """Return the current versions of those source files of a node that changed since they were hashed.

    A file edited after it was hashed would be stored under its earlier version.
    """
    sources = project.graph.sources
    now = {name: source_version(sources[name]) for name in node.inputs if name in sources}
    changed = {name: version for name, version in now.items() if version != versions[name]}
    return changed | {
        name: digest for name, digest in named_contents(node, project.config).items() if digest != named.get(name)
    }


def _refuse(node: Node, graph: Graph, changed: Mapping[str, str]) -> None:
    """Raise `DataError` when files changed while a node was built from them."""
    if changed:
        listed = ", ".join(f"{name} ({graph.sources[name]})" if name in graph.sources else name for name in changed)
        raise DataError(f"{node.name} is not kept, because {listed} changed while it was read; run again")


def _plots(shown: Mapping[str, Any], folder: Path) -> dict[str, list[str]]:
    """Return file and caption of each picture, so that they are shown in the same way when the artifact is reused."""
    return {
        name: [value.path.relative_to(folder).as_posix(), value.caption]
        for name, value in shown.items()
        if isinstance(value, Plot)
    }


def _moved(shown: Mapping[str, Any], before: Path, now: Path) -> dict[str, Any]:
    """Return the display values with the new paths of pictures, since publishing renamed their directory."""
    return {
        name: Plot(now / value.path.relative_to(before), value.caption) if isinstance(value, Plot) else value
        for name, value in shown.items()
    }
