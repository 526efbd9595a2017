"""The part of a configuration that decides a result, without the places of its files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.config.reading import ADDED, EMBEDDED, MODEL_KEYS, PATH_KEYS, PATH_LIST_KEYS, TAXONOMY_KEY

ABSENT = "(not there)"
"""Stands for a setting that a configuration does not have."""
_ROW = re.compile(r"\[[^\]]*\]")


def slice_of(
    data: Mapping[str, Any], sections: Iterable[str], unread: Iterable[str] = (), *, placeless: bool = True
) -> dict[str, Any]:
    """Pick the settings that decide a result.

    Args:
        data: the configuration as plain data, or at least what the sections need of it.
        sections: dotted names of sections or fields.
        unread: dotted names of fields below them that decide nothing; of a list, that field of every row.
        placeless: leave out where files are: only the last name of a path stays, because it says how the file is read;
            the taxonomy and a model's directory are replaced by a mark. Their content is versioned by itself, so
            that the same files in another directory give the same result.

    Returns:
        Values by section; `ABSENT` where there is none.
    """
    kept = _placeless(data) if placeless else data
    for name in unread:
        kept = _without(kept, name.split("."))
    return {section: _at(kept, section.split(".")) for section in sections}


def quiet(section: Any, name: str) -> list[str]:
    """Name the settings of a section that were added later and are at their default, so that they decide nothing new.

    Args:
        section: a configuration dataclass, or a tuple of such, whose fields are named when they are so in every row;
            anything else has none.
        name: its dotted name.
    """
    if isinstance(section, tuple) and section:
        first, *others = (quiet(row, name) for row in section)
        return [dotted for dotted in first if all(dotted in other for other in others)]
    if not dataclasses.is_dataclass(section):
        return []
    found: list[str] = []
    for field in dataclasses.fields(section):
        value, dotted = getattr(section, field.name), f"{name}.{field.name}"
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.metadata.get(ADDED) and value == default:
            found.append(dotted)
        found += quiet(value, dotted)
    return found


def came_quietly(name: str, before: Any, silent: Collection[str]) -> bool:
    """Say whether a setting was unknown to an earlier configuration and does what was done without it.

    Args:
        name: dotted name, with the rows of lists in brackets, such as `benchmarks.suites[embedded].of`.
        before: its earlier value, `ABSENT` where there was none.
        silent: names that `quiet` gives.
    """
    return before == ABSENT and _ROW.sub("", name) in silent


def covers(sections: Iterable[str], name: str) -> bool:
    """Say whether a dotted name is one of the sections or below one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _placeless(node: Any, key: str = "") -> Any:
    if isinstance(node, Mapping):
        return {name: _placeless(value, name) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_placeless(item, PATH_KEYS[0] if key in PATH_LIST_KEYS else "") for item in node]
    if not isinstance(node, str):
        return node
    if key in MODEL_KEYS and node.startswith("path:"):
        return "path:"
    if key == TAXONOMY_KEY:
        return None
    return Path(node).name if key in PATH_KEYS and node != EMBEDDED else node


def _without(node: Any, names: Sequence[str]) -> Any:
    if isinstance(node, list):
        return [_without(item, names) for item in node]
    if not isinstance(node, Mapping) or names[0] not in node:
        return node
    if len(names) == 1:
        return {key: value for key, value in node.items() if key != names[0]}
    return {**node, names[0]: _without(node[names[0]], names[1:])}


def _at(node: Any, names: Sequence[str]) -> Any:
    for name in names:
        node = node.get(name, ABSENT) if isinstance(node, Mapping) else ABSENT
    return node
