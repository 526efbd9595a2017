"""The road as plain data: which assets there are, what each needs, and how one is built.

`build_graph` turns a configuration into nodes; `build` makes one of them into a published artifact. The Dagster
project wires the same nodes, so that a stage runs alike under `dagster dev`, from Python and from tests.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.declared import suite_folder
from drirl_core.config import EMBEDDED, INBOX, Config, SourceConfig, resolved, slice_hash
from drirl_core.config.slices import covers
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import contents, source_version
from drirl_core.reporting import Plot, Reporter
from drirl_core.store import artifacts
from drirl_core.store.artifacts import Artifact, ArtifactStore

DATA_FOLDER = Path(__file__).parents[1] / "data"
INBOX_SOURCE = f"source_{INBOX}"
"""The files that the drop folder accepted."""


@dataclass(frozen=True)
class Node:
    """One asset.

    Args:
        name: name of the asset.
        stage: key into `STAGES`.
        category: the category it serves, or None.
        inputs: names of upstream assets and sources.
        description: one sentence for people.
    """

    name: str
    stage: str
    category: str | None
    inputs: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Context:
    """Everything a stage function may use.

    Args:
        config: the whole configuration.
        category: the category it serves, or None.
        inputs: directory of each upstream artifact, and file of each source, by asset name.
        out: directory that becomes the artifact.
        scratch: directory that survives a crash.
        store: artifact store, for its row caches.
        reporter: where to send progress.
    """

    config: Config
    category: str | None
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    store: ArtifactStore
    reporter: Reporter

    def named(self, prefix: str) -> dict[str, Path]:
        """Return the inputs whose name is `prefix` or starts with `prefix_`, keyed by what follows."""
        return {
            name.removeprefix(prefix).lstrip("_"): path
            for name, path in self.inputs.items()
            if name == prefix or name.startswith(f"{prefix}_")
        }


@dataclass(frozen=True)
class Graph:
    """All assets of a configuration.

    Args:
        categories: harm categories in order.
        sources: input files by asset name `source_<name>`.
        nodes: assets in topological order.
    """

    categories: tuple[str, ...]
    sources: Mapping[str, Path]
    nodes: Mapping[str, Node] = field(default_factory=dict)


def dataset_name(category: str) -> str:
    """Return the asset name of a category's data set."""
    return "helpful_dataset" if category == taxonomy.HELPFUL else f"safety_dataset_{category}"


def build_graph(config: Config) -> Graph:
    """Lay out the assets of a configuration, in topological order."""
    categories = taxonomy.load_categories(config.prompts.taxonomy)
    every = (*categories, taxonomy.HELPFUL)
    prompt_sources = {f"source_{s.name}": source_path(s) for s in config.prompt_sources}
    demonstrations = config.demonstrations
    sources = dict(prompt_sources)
    helpful_source, refusal_source = f"source_{demonstrations.helpful.name}", f"source_{demonstrations.refusals.name}"
    sources[helpful_source] = source_path(demonstrations.helpful)
    sources[refusal_source] = source_path(demonstrations.refusals)
    # Every suite is an input of what must not contain its prompts.
    suite_sources = {
        f"source_suite_{suite.name}": suite_folder(suite.name, suite.path) for suite in config.benchmarks.suites
    }
    sources.update(suite_sources)
    dataset_inputs: tuple[str, ...] = ("prompt_pool", *suite_sources)
    if demonstrations.demonstrator.kind == "file":
        name = f"source_{demonstrations.demonstrator.source.name}"
        sources[name] = source_path(demonstrations.demonstrator.source)
        dataset_inputs += (name, INBOX_SOURCE) if INBOX_SOURCE in sources else (name,)
    nodes: list[Node] = [
        Node(
            "prompt_pool",
            "prompt_pool",
            None,
            (*prompt_sources, *suite_sources),
            "Unsafe prompts of all sources: cleaned, routed to a category, free of duplicates and of benchmark prompts.",
        )
    ]
    for category in categories:
        nodes.append(
            Node(
                dataset_name(category),
                "dataset",
                category,
                dataset_inputs,
                f"Balanced prompts with demonstrations for {category}.",
            )
        )
    nodes.append(
        Node(
            dataset_name(taxonomy.HELPFUL),
            "dataset",
            taxonomy.HELPFUL,
            ("prompt_pool", helpful_source, refusal_source, *suite_sources),
            "Harmless prompts with good answers; safe look-alikes among them.",
        )
    )
    datasets = tuple(dataset_name(c) for c in every)
    nodes.append(
        Node(
            "balance_report",
            "balance_report",
            None,
            ("prompt_pool", *datasets),
            "Rows a category before and after balancing, imbalance ratio and entropy.",
        )
    )
    with_sft = config.policy.start == "sft"
    start: tuple[str, ...] = ("sft_checkpoint",) if with_sft else ()
    if with_sft:
        nodes.append(
            Node(
                "sft_checkpoint",
                "sft_checkpoint",
                None,
                datasets,
                "The policy after supervised fine-tuning on demonstrations and helpful answers.",
            )
        )
    pool_inputs = start if config.completions.samples.get("sft", 0) else ()
    harmless = (dataset_name(taxonomy.HELPFUL),) if config.completions.contrast.get("compliance", 0) else ()
    for c in every:
        nodes.append(
            Node(
                f"completion_pool_{c}",
                "completion_pool",
                c,
                (dataset_name(c), *(harmless if c != taxonomy.HELPFUL else ()), *pool_inputs),
                f"Seeded completions of the {c} prompts by the reference policies.",
            )
        )
    for c in every:
        nodes.append(
            Node(
                f"reward_model_{c}",
                "reward_model",
                c,
                (dataset_name(c), f"completion_pool_{c}"),
                f"Shadow reward model of {c}, learned by maximum-likelihood IRL.",
            )
        )
    for c in categories:
        nodes.append(
            Node(
                f"hardness_{c}",
                "hardness",
                c,
                (dataset_name(c), f"completion_pool_{c}", f"reward_model_{c}"),
                f"Data hardness, model responsiveness and alpha of the {c} prompts.",
            )
        )
    rewards = tuple(f"reward_model_{c}" for c in every)
    hardness = tuple(f"hardness_{c}" for c in categories)
    nodes.append(
        Node(
            "policy_checkpoint",
            "policy_checkpoint",
            None,
            (*datasets, *rewards, *hardness, *start),
            "The policy aligned by GRPO with dynamic reward scaling.",
        )
    )
    nodes.append(
        Node(
            "reference_classifiers",
            "reference_classifiers",
            None,
            datasets,
            "Floor and ceiling of the benchmarks: a bag of words, and a linear probe of the frozen base model.",
        )
    )
    suites = tuple(f"benchmark_{suite.name}" for suite in config.benchmarks.suites)
    for suite in config.benchmarks.suites:
        nodes.append(
            Node(
                f"benchmark_{suite.name}",
                "benchmark",
                suite.name,
                (*start, "policy_checkpoint", "reference_classifiers", f"source_suite_{suite.name}"),
                f"Base, start and aligned policy on the suite {suite.name}, between floor and ceiling.",
            )
        )
    nodes.append(
        Node(
            "promotion_candidate",
            "promotion_candidate",
            None,
            ("policy_checkpoint", *suites),
            "The aligned policy with the evidence that its gates judge before it is promoted.",
        )
    )
    everything = ("balance_report", *datasets, *rewards, *hardness, *start, "policy_checkpoint", *suites)
    nodes.append(Node("report", "report", None, everything, "One HTML page: results, curves, samples, cost."))
    nodes.append(
        Node("model_card", "model_card", None, ("policy_checkpoint", *suites), "Model card of the aligned policy.")
    )
    return Graph(categories, sources, {node.name: node for node in nodes})


def source_path(source: SourceConfig) -> Path:
    """Return the file of a source; `embedded` is the file of the source's name in the shipped data."""
    return DATA_FOLDER / f"{source.name}.jsonl" if source.path == EMBEDDED else Path(source.path)


def deciding(node: Node, config: Config) -> tuple[str, ...]:
    """Return the dotted sections of the configuration that decide a node's result."""
    sections = STAGES[node.stage].config
    # How dropped files are read decides a result only where there is a drop folder; without one, versions are what they were.
    if INBOX_SOURCE in node.inputs:
        sections += tuple(f"operations.inbox.{name}" for name in ("adapter", "columns", "category", "licence"))
    if covers(sections, "demonstrations.demonstrator") and config.demonstrations.demonstrator.kind == "model":
        sections += ("models.dtype",)
    return sections


def code_version(node: Node, config: Config) -> str:
    """Return the algorithm version and the hash of the settings, and of what the files they name hold, that decide a node."""
    return _code_version(node, config, contents(config, deciding(node, config)))


def _code_version(node: Node, config: Config, named: Mapping[str, str]) -> str:
    stage = STAGES[node.stage]
    parts = [slice_hash(config, deciding(node, config), stage.unread), named]
    return f"{stage.version}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


def build(
    node: Node, config: Config, versions: Mapping[str, str], reporter: Reporter
) -> tuple[Artifact, bool, dict[str, Any]]:
    """Build one asset, or find the artifact that equal inputs gave before.

    Args:
        node: the asset.
        config: the configuration.
        versions: version of each of the node's inputs.
        reporter: where to send progress.

    Returns:
        The artifact, whether it was found rather than built, and the stage's metadata for display (plots and tables
        included; empty when found).

    Raises:
        DrirlError: an input is missing or bad, or the stage failed; the message says how to mend it.
    """
    stage, store = STAGES[node.stage], ArtifactStore.of(config)
    graph = build_graph(config)
    missing = [name for name in node.inputs if name not in versions]
    if missing:
        raise ArtifactError(
            f"{node.name} needs {', '.join(missing)}, which {'has' if len(missing) == 1 else 'have'} not been materialized"
        )
    named = contents(config, deciding(node, config))
    code = _code_version(
        node, config, named
    )  # of these very contents, which are looked at again when the stage is done
    key = artifacts.fingerprint(node.name, code, {name: versions[name] for name in node.inputs})
    with store.building(node.name, key, reporter.log) as workspace:
        found = store.find(node.name, key)
        if found:
            store.touch(node.name, key, found.version)
            reporter.log(f"{node.name}: unchanged, version {found.version} is reused")
            return found, True, {}
        store.require_writable()
        inputs = {
            name: graph.sources[name] if name in graph.sources else store.open(name, versions[name]).path
            for name in node.inputs
        }
        module, function = stage.function.split(":")
        started = time.monotonic()
        context = Context(config, node.category, inputs, workspace.out, workspace.scratch, store, reporter)
        shown = getattr(importlib.import_module(module), function)(context)
        changed = _changed_meanwhile(node, config, graph, versions, named)
        if changed.keys() == {INBOX_SOURCE}:
            reporter.log(
                f"{node.name}: the drop folder changed while it was read; building again from what it holds now"
            )
            shutil.rmtree(workspace.out)
            return build(node, config, {**versions, **changed}, reporter)
        if changed:
            listed = ", ".join(f"{name} ({graph.sources[name]})" if name in graph.sources else name for name in changed)
            raise DataError(f"{node.name} is not kept, because {listed} changed while it was read; run again")
        plain = {name: value for name, value in shown.items() if isinstance(value, int | float | str)}
        details = {
            "metadata": {**plain, "seconds": round(time.monotonic() - started, 2)},
            "inputs": {name: versions[name] for name in node.inputs},
            "code_version": code,
            "contents": named,
            "config": resolved(config),
        }
        artifact = store.publish(node.name, key, workspace, details=details, volatile=stage.volatile)
        # Publishing renamed the directory the pictures were written to.
        shown = {
            name: Plot(artifact.path / value.path.relative_to(workspace.out), value.caption)
            if isinstance(value, Plot)
            else value
            for name, value in shown.items()
        }
        return artifact, False, {**shown, "seconds": details["metadata"]["seconds"]}


def _changed_meanwhile(
    node: Node, config: Config, graph: Graph, versions: Mapping[str, str], named: Mapping[str, str]
) -> dict[str, str]:
    """Return the present versions of the files a node was built from that are not what they were taken for.

    A file edited after it was hashed would be kept under the version it had before.
    """
    now = {name: source_version(graph.sources[name]) for name in node.inputs if name in graph.sources}
    changed = {name: version for name, version in now.items() if version != versions[name]}
    return changed | {
        name: digest for name, digest in contents(config, deciding(node, config)).items() if digest != named.get(name)
    }


def run_all(config: Config, reporter: Reporter) -> dict[str, Artifact]:
    """Build every asset in order, in this process and without Dagster."""
    graph = build_graph(config)
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    built: dict[str, Artifact] = {}
    for node in graph.nodes.values():
        built[node.name], _, _ = build(node, config, versions, reporter)
        versions[node.name] = built[node.name].version
    return built
