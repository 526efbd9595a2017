"""Which configuration this code location uses: the environment variable `DRIRL_CONFIG` decides it."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.config import Config, load_config, place
from drirl_core.config.reading import expanded
from drirl_core.project import Project

ROOT = place.PROJECT
"""Directory of the project; relative paths in the settings are resolved from here."""

CONFIG_VARIABLE = "DRIRL_CONFIG"
DEFAULT_CONFIG = "configs/demo.yaml"


def current() -> Project:
    """Return the project of this code location.

    It is made once per process; a reload of the location starts a new process.

    Returns:
        The project of the file that the environment variable `DRIRL_CONFIG` names (absolute, or relative to the
        checkout), else of the demo.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return _load_once(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def config_for_nodes() -> str:
    """Return the path of this location's configuration as other machines can use it.

    Returns:
        Relative to the checkout for a file inside it, because the checkout may be elsewhere there; else absolute.
    """
    path = ROOT / expanded(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@functools.cache
def _load_once(path: str) -> Project:
    return load(path)


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Project:
    """Make the project of a configuration; the place of its artifacts does not depend on the working directory.

    Args:
        path: the YAML file, absolute or relative to the project.
        overrides: values by dotted key, applied last.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    return Project(anchored(load_config(ROOT / expanded(str(path)), overrides)))


def anchored(config: Config) -> Config:
    """Return the configuration with absolute directories for artifacts and models.

    Relative directories are resolved from the project.

    Raises:
        ConfigError: the artifacts are at a URI for which a package is missing.
    """
    return place.anchored(config)
