"""The declarations of `suites.yaml` as written there, for code that must not load the module that reads the suites."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config.strict_yaml import read_yaml

if TYPE_CHECKING:
    from drirl_core.config import Config

FILE = Path(__file__).with_name("suites.yaml")


@functools.cache
def declarations() -> Mapping[str, Mapping[str, Any]]:
    """Return the record of every declared suite by its name."""
    return read_yaml(FILE, "file")


def declarations_of(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the record of each suite of a configuration, under a name for people; one of its own has none."""
    found = {suite.name: declarations().get(suite.name) for suite in config.benchmarks.suites}
    return {f"declaration of suite {name}": suite for name, suite in found.items() if suite}
