"""Why an asset has to be recomputed: how the current inputs, code and settings differ from those of its last build."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drirl_core.config import Config, resolved
from drirl_core.config.base import differences
from drirl_core.config.checks import MOVED
from drirl_core.config.slices import came_quietly, quiet, slice_of
from drirl_core.graph.exclusion import EXCLUDED, deciding_inputs, suites_left_out
from drirl_core.graph.layout import Node
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import (
    JUDGE_ERROR,
    SAFETY_POLICY,
    TAXONOMY,
    code_version,
    deciding,
    named_contents,
    own_view,
)
from drirl_core.project import Project
from drirl_core.redaction import redact

_LONGEST_VALUE = 60

Kind = Literal[
    "not_made",
    "gone",
    "source",
    "excluded",
    "input",
    "new_input",
    "dropped_input",
    "algorithm",
    "setting",
    "content",
    "settings",
    "unknown",
]


@dataclass(frozen=True)
class Cause:
    """One reason to recompute an asset.

    Args:
        kind: `not_made`, `gone` (its artifact), `source` (a file's content), `excluded` (the prompts that the suites
            keep out of it), `input` (an upstream artifact), `new_input`, `dropped_input`, `algorithm` (its version),
            `setting`, `content` (what a file holds that a setting names), `settings` where the old ones are not known,
            or `unknown` where nothing is known of the last build.
        what: name of the input or of the content, or dotted name of the setting.
        before: version or value that gave the last artifact; secrets are hidden.
        now: current version or value.
        path: file or folder of a source.
    """

    kind: Kind
    what: str = ""
    before: Any = None
    now: Any = None
    path: str | None = None

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.kind == "setting" and self.before == self.now:
            return f"{self.what}: {_short(self.now)} changed (what differs is hidden)"
        if self.kind == "content" and self.what == TAXONOMY:
            return f"{self.what}: {_categories_changed(self.before.split(', '), self.now.split(', '))}"
        return {
            "not_made": "not made yet",
            "gone": "its artifact was removed or damaged",
            "source": f"{self.what} changed: {self.path}",
            "excluded": "the benchmark suites keep other prompts out of it than before",
            "input": f"{self.what} changed",
            "new_input": f"{self.what} is a new input",
            "dropped_input": f"{self.what} is no input any more",
            "algorithm": f"algorithm {self.before} -> {self.now}",
            "setting": f"{self.what}: {_short(self.before)} -> {_short(self.now)}",
            "content": f"{self.what} changed",
            "settings": "its settings changed",
            "unknown": "its inputs, code or settings changed",
        }[self.kind]


def causes(node: Node, last: Mapping[str, Any], inputs: Mapping[str, str], project: Project) -> list[Cause]:
    """Compare an asset's last build with what it would be made from now.

    Args:
        node: the asset.
        last: record of its last build; older ones may lack some of the facts.
        inputs: current versions of those of its inputs that are settled.
        project: the current configuration and its graph.

    Returns:
        Every difference; none when only inputs that are not settled may differ.
    """
    if "inputs" not in last or "code_version" not in last:
        return [Cause("unknown")]
    config = project.config
    found = [*_input_causes(node, last["inputs"], inputs, project)]
    old_algorithm, _, old_slice = str(last["code_version"]).partition("-")
    algorithm, _, own_slice = code_version(node, config).partition("-")
    if old_algorithm != algorithm:
        found.append(Cause("algorithm", node.stage, old_algorithm, algorithm))
    if old_slice != own_slice:
        before, now = _own_suite(node, last.get("config")), own_view(node, config)
        changed = setting_causes(before, now, deciding(node, config), STAGES[node.stage].unread)
        found += changed + content_causes(last.get("contents", {}), named_contents(node, config)) or [Cause("settings")]
    return found or [*_excluded_causes(node, last["inputs"], inputs, project)]


def content_causes(before: Mapping[str, str], now: Mapping[str, str]) -> list[Cause]:
    """Return what is named by the settings of both builds and holds something else now.

    A text of the safety policy and the error of a judge may also be new or gone: no setting tells that.

    Args:
        before: contents of the earlier build; empty where they are not known.
        now: current ones.
    """
    known = [
        name
        for name in {**now, **before}
        if (name in before and name in now) or name.startswith((SAFETY_POLICY, JUDGE_ERROR))
    ]
    return [
        Cause("content", name, before.get(name), now.get(name)) for name in known if before.get(name) != now.get(name)
    ]


def setting_causes(
    before: Mapping[str, Any] | None, config: Config, sections: Sequence[str], unread: Sequence[str] = ()
) -> list[Cause]:
    """Return the settings of some sections that differ from an earlier, resolved configuration.

    Args:
        before: the earlier configuration as plain data; None where it is not known.
        config: the current configuration.
        sections: dotted names of sections or fields.
        unread: dotted names of fields below them that decide nothing.

    Returns:
        One cause per setting, in the order of the sections.
    """
    if before is None:
        return []
    pair = (before, resolved(config))
    unread = (*unread, *MOVED)  # bounds of checks that an earlier version kept in these sections decide nothing
    silent = {
        name for section in dataclasses.fields(config) for name in quiet(getattr(config, section.name), section.name)
    }

    def changes(placeless: bool) -> Iterator[tuple[str, Any, Any]]:
        old, new = (slice_of(data, sections, unread, placeless=placeless) for data in pair)
        for section in sections:
            yield from differences(old[section], new[section], section)

    # The location of files is no reason; a path that is a reason is shown in full.
    # Nor is a setting that the earlier configuration did not know, and that does what was done without it.
    decisive = {name for name, old, _ in changes(True) if not came_quietly(name, old, silent)}
    shown = [change for change in changes(False) if change[0] in decisive]
    return [Cause("setting", name, *(hidden(name, value) for value in values)) for name, *values in shown]


def _own_suite(node: Node, config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return an earlier configuration as it decided a node: without the other suites for an asset of one suite."""
    if config is None or node.suite is None or "benchmarks" not in config:
        return config
    suites = [suite for suite in config["benchmarks"].get("suites", []) if suite.get("name") == node.suite]
    return {**config, "benchmarks": {**config["benchmarks"], "suites": suites}}


def _input_causes(
    node: Node, before: Mapping[str, str], inputs: Mapping[str, str], project: Project
) -> Iterator[Cause]:
    left_out = suites_left_out(node, project.config)
    for name in (name for name in node.inputs if name not in left_out):
        if name not in before:
            yield Cause("new_input", name)
        elif name in inputs and before[name] != inputs[name]:
            path = project.graph.sources.get(name)
            yield Cause("source" if path else "input", name, before[name], inputs[name], _shown(path) if path else None)
    for name in before:
        if name not in node.inputs and name != EXCLUDED:
            yield Cause("dropped_input", name)


def _excluded_causes(
    node: Node, before: Mapping[str, str], inputs: Mapping[str, str], project: Project
) -> Iterator[Cause]:
    """Compare what the suites keep out, where nothing else differs: that takes time with many prompts."""
    now = deciding_inputs(node, inputs, project)
    if EXCLUDED in now and now[EXCLUDED] != before.get(EXCLUDED):
        yield Cause("excluded", EXCLUDED, before.get(EXCLUDED), now[EXCLUDED])


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed in the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _categories_changed(before: Sequence[str], now: Sequence[str]) -> str:
    gained, lost = [name for name in now if name not in before], [name for name in before if name not in now]
    changes = [f"{', '.join(names)} {what}" for names, what in ((gained, "added"), (lost, "removed")) if names]
    return "; ".join(changes) or "other order of the categories"


def hidden(name: str, value: Any) -> Any:
    """Return a setting's value in a form safe to show: secrets are blanked out.

    Args:
        name: dotted name of the setting.
        value: its value.
    """
    key = name.rpartition(".")[2]
    return redact({key: value})[key]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
