"""Which configuration this code location serves: one setting, `DRIRL_CONFIG`, decides it."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.config import Config, load_config, place
from drirl_core.project import Project

ROOT = place.PROJECT
"""Directory of the project; relative paths of the settings start here."""

CONFIG_VARIABLE = "DRIRL_CONFIG"
DEFAULT_CONFIG = "configs/demo.yaml"


def current() -> Project:
    """Return the project of this code location; it is made once, a reload of the location starts a new process.

    Returns:
        The project of the file that the environment variable `DRIRL_CONFIG` names (absolute, or relative to the
        checkout), else of the demo.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return _load_once(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def config_for_nodes() -> str:
    """Return the name of this location's configuration as another machine finds it.

    Returns:
        Relative to the checkout for a file within it, because that may lie elsewhere there; else the absolute path.
    """
    path = ROOT / (os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@functools.cache
def _load_once(path: str) -> Project:
    return load(path)


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Project:
    """Make the project of a configuration; its artifacts lie in the same place wherever a process was started.

    Args:
        path: the YAML file, absolute or relative to the project.
        overrides: dotted keys to values, applied last.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return Project(anchored(load_config(ROOT / path, overrides)))


def anchored(config: Config) -> Config:
    """Return the configuration with absolute directories for artifacts and models; relative ones start at the project.

    Raises:
        ConfigError: the artifacts lie at a URI for which a package is missing.
    """
    return place.anchored(config)
