"""Where the settings of a run and its artifacts are: the same place whatever the working directory is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from drirl_core.config import Config
from drirl_core.config.reading import expanded
from drirl_core.store.remote import is_uri, require_protocol

PROJECT = Path(__file__).resolve().parents[2]
"""Directory of the project; relative paths of `root`, `mirror` and `models.cache` start here."""


def find_config(path: Path) -> Path:
    """Return the file a user means: in the working directory, else in the project; as given when it is in neither.

    Raises:
        ConfigError: the path begins with a variable, or with `~` and the name of an unknown user.
    """
    path = Path(expanded(str(path)))
    in_project = PROJECT / path
    return in_project if not path.exists() and in_project.exists() else path


def anchored(config: Config) -> Config:
    """Return the configuration with absolute directories for artifacts and models; relative ones start at the project.

    Raises:
        ConfigError: the artifacts are at a URI for which a package is missing, or a directory begins with a variable.
    """
    models = dataclasses.replace(config.models, cache=str(PROJECT / expanded(config.models.cache)))
    if is_uri(config.root):
        require_protocol(config.root)
    root = config.root if is_uri(config.root) else str(PROJECT / expanded(config.root))
    return dataclasses.replace(config, root=root, mirror=str(PROJECT / expanded(config.mirror)), models=models)
