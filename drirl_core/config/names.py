"""Names of categories, sources and suites: they become names of assets, values of tags and columns of tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from drirl_core.config.reading import require

if TYPE_CHECKING:
    from drirl_core.config.data import SourceConfig

LONGEST_NAME = 63
"""Longest name, in characters: Dagster and Kubernetes take no longer values of tags. Dagster takes only letters, digits
and '_' in the name of an asset."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def name_problem(name: object, reserved: Mapping[str, str] | None = None) -> str:
    """Say why a name cannot be used, and what to do; empty when it can.

    Args:
        name: the name of a category, source or suite.
        reserved: names that mean something else already, and what.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "use lower-case letters from a to z, digits and '_', beginning with a letter"
    if len(name) > LONGEST_NAME:
        return f"it has {len(name)} characters, and a name has at most {LONGEST_NAME}; choose a shorter one"
    if reserved and name in reserved:
        return f"it is reserved: {name!r} is the name {reserved[name]}; choose another one"
    return ""


def require_name(name: str, what: str, reserved: Mapping[str, str] | None = None) -> None:
    """Refuse a name that cannot be the name of an asset.

    Args:
        name: the name.
        what: what it names, for the message.
        reserved: names that mean something else already, and what.

    Raises:
        ConfigError: it is empty, too long, reserved, or has other characters.
    """
    problem = name_problem(name, reserved)
    require(not problem, f"{what} {name!r}: {problem}; it becomes the name of an asset")


def label_source_name(path: str) -> str:
    """Return the name of a file of labels as a source: `labels_` and what the file is called, without its endings."""
    stem = re.sub(r"[^a-z0-9]+", "_", Path(path).name.partition(".")[0].lower()).strip("_")
    return f"labels_{stem or 'file'}"[:LONGEST_NAME]


def require_distinct(sources: Iterable[tuple[str, SourceConfig]], suites: Iterable[str]) -> None:
    """Refuse sources and suites of which two would be one asset.

    Args:
        sources: each source with the place of its setting. One file may serve in several places under one name.
        suites: names of the suites in order; the asset of a suite's files is `source_suite_<name>`.

    Raises:
        ConfigError: two of them would be one asset; the message names both.
    """
    taken: dict[str, tuple[str, str]] = {}
    for place, source in sources:
        first, path = taken.setdefault(f"source_{source.name}", (place, source.path))
        require(
            path == source.path,
            f"two sources are called {source.name!r}: {path} and {source.path}; give each file its own name "
            f"({first} and {place})",
        )
    for number, name in enumerate(suites):
        first, path = taken.get(f"source_suite_{name}", ("", ""))
        require(
            not first,
            f"the source 'suite_{name}' ({first}: {path}) and the suite {name!r} (benchmarks.suites[{number}]) would "
            f"both be the asset 'source_suite_{name}', so that one of them would not be read; rename the source",
        )
