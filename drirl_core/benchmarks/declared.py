"""The declarations of `suites.yaml` as written there, for code that must not load the module that reads the suites."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config.reading import EMBEDDED
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.files import READER

if TYPE_CHECKING:
    from drirl_core.config import Config, SuiteConfig

FILE = Path(__file__).with_name("suites.yaml")
OWN_SUITE = "suite.yaml"
"""Declaration of a user's own suite, in the directory with its files."""


@functools.cache
def declarations() -> Mapping[str, Mapping[str, Any]]:
    """Return the record of every declared suite by its name."""
    return read_yaml(FILE, "file")


def declares_itself(suite: SuiteConfig) -> bool:
    """Say whether the declaration of a suite is in the directory with its files."""
    return suite.path != EMBEDDED and (Path(suite.path) / OWN_SUITE).is_file()


def declarations_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the record of each suite of a configuration, under a name for people; one of its own has none.

    Files of users also name the version of their reader: what was read differently before is stale.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for suite in config.benchmarks.suites:
        record = declarations().get(suite.declared)
        if record:
            read = {} if suite.path == EMBEDDED else {"reader": READER}
            found[f"declaration of suite {suite.name}"] = {**record, **read}
        elif suite.path != EMBEDDED:
            found[f"reader of suite {suite.name}"] = {"reader": READER}
    return found
