"""What decides the version of an asset: its stage's algorithm, its settings, and the files that these only name.

The categories of a taxonomy, the layouts of sources, the declarations of suites and the weights of a local model decide
results as the settings do, so they are part of an asset's version: by their content, never by their path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import Config, slice_hash
from drirl_core.config.operations import ACCEPTED
from drirl_core.config.slices import covers
from drirl_core.errors import DataError
from drirl_core.graph.layout import INBOX_SOURCE, Node
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.models.digests import model_digest

TAXONOMY = "prompts.taxonomy"
"""Key of the categories among the contents."""

JUDGE_ERROR = "measured error of the llm judge"
"""Key of what is recorded of a judge behind an endpoint among the contents."""

SAFETY_POLICY = "safety policy of "
"""What the names of its texts among the contents begin with; the category follows."""

_SHIPPED = {
    "prompts.sources": "drirl_core.prompts.layouts:layouts_of",
    "benchmarks.suites": "drirl_core.benchmarks.declared:declarations_of",
    "benchmarks.judge": "drirl_core.benchmarks.judges.weight_files:weights_of",
    "demonstrations": "drirl_core.files.version:readers_of",
    "policy.own_rewards": "drirl_core.policy.own_rewards:sources_of",
}
"""Functions that say what files hold about the values of a setting, by that setting."""


def source_version(path: Path) -> str:
    """Hash the bytes of a source file, or of all files of a source directory.

    A drop folder that accepted nothing yet has no folder of accepted files; it counts as an empty one.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    try:
        if path.is_dir() or (path.name == ACCEPTED and path.parent.is_dir() and not path.exists()):
            names = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
            # Kubernetes keeps the files of a mount a second time, in folders `..<date>` that change by themselves.
            own = [name for name in names if not any(part.startswith("..") for part in name.parts)]
            parts = [f"{name} {source_version(path / name)}" for name in own]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(
            f"source file {path} cannot be read ({error.strerror or error}); fix the path in the configuration"
        ) from error


def deciding(node: Node, config: Config) -> tuple[str, ...]:
    """Return the dotted sections of the configuration that decide a node's result."""
    stage = STAGES[node.stage]
    sections = stage.config + stage.config_when(config)
    # How dropped files are read decides a result only where there is a drop folder; elsewhere no version may change.
    if INBOX_SOURCE in node.inputs:
        sections += tuple(f"operations.inbox.{name}" for name in ("adapter", "columns", "category", "licence"))
    return sections


def own_view(node: Node, config: Config) -> Config:
    """Return the configuration as it decides a node: an asset of one suite depends on no other suite."""
    own = tuple(suite for suite in config.benchmarks.suites if suite.name == node.suite)
    return dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, suites=own)) if own else config


def named_contents(node: Node, config: Config) -> dict[str, str]:
    """Say what the files hold that decide a node and that its settings only name, as `contents` does.

    Of the safety policy a node of one category depends on the text of that category alone; the error of a judge that
    was measured counts where it is shown.

    Raises:
        ConfigError: the taxonomy or the safety policy cannot be read.
    """
    found = contents(own_view(node, config), deciding(node, config)) | _safety_policy(node, config)
    return found | _judge_error(node, config)


def code_version(node: Node, config: Config, named: Mapping[str, str] | None = None) -> str:
    """Return the algorithm version and the hash of the settings and files that decide a node.

    Args:
        node: the asset.
        config: the configuration.
        named: what the files hold, as returned by `named_contents`; None to read them now.
    """
    sections, stage = deciding(node, config), STAGES[node.stage]
    settings = slice_hash(own_view(node, config), sections, stage.unread)
    parts = [settings, named_contents(node, config) if named is None else named]
    return f"{stage.version}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


def contents(config: Config, sections: Iterable[str]) -> dict[str, str]:
    """Say what the files hold that some settings only name.

    What is missing or unknown is no error here, where versions are compared: whoever reads it says so.

    Args:
        config: the configuration.
        sections: dotted names of the settings that are read.

    Returns:
        By a name for people: the categories in order, or a digest.

    Raises:
        ConfigError: the taxonomy cannot be read.
    """
    sections = tuple(sections)
    found: dict[str, str] = {}
    if covers(sections, TAXONOMY):
        found[TAXONOMY] = ", ".join(taxonomy.load_categories(config.prompts.taxonomy))
    for setting, function in _SHIPPED.items():
        if covers(sections, setting):
            found |= {name: _digest(value) for name, value in lazy(function)(config).items()}
    return found | _models(config, sections)


def safety_policy_for(nodes: Iterable[Node], config: Config) -> dict[str, str]:
    """Return the texts of the safety policy by category, if one of the nodes reads them; else nothing.

    Raises:
        ConfigError: one reads them, and the file cannot be used.
    """
    if not config.demonstrations.safety_policy or not any(STAGES[node.stage].safety_policy(config) for node in nodes):
        return {}
    return lazy("drirl_core.demonstrations.safety_policy:texts_of")(config)


def _safety_policy(node: Node, config: Config) -> dict[str, str]:
    texts = safety_policy_for((node,), config)
    own = (category for category in texts if node.category in (None, category))
    return {f"{SAFETY_POLICY}{category}": _digest(texts[category]) for category in own}


def _judge_error(node: Node, config: Config) -> dict[str, str]:
    if not STAGES[node.stage].judge_error(config):
        return {}
    found = lazy("drirl_core.benchmarks.judges.recorded:shown_errors")(config)
    return {JUDGE_ERROR: _digest(found)} if found else {}


def _models(config: Config, sections: tuple[str, ...]) -> dict[str, str]:
    references = config.model_references.items()
    local = {
        name: Path(reference.removeprefix("path:")) for name, reference in references if reference.startswith("path:")
    }
    return {f"files of {name}": _model(folder, config) for name, folder in local.items() if covers(sections, name)}


def _model(folder: Path, config: Config) -> str:
    try:
        return _digest(model_digest(folder, Path(config.models.cache)))
    except (OSError, ValueError):
        return "unreadable"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
