"""What all other code works on: a configuration, its graph, and the store of its artifacts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.config import Config, load_config
from drirl_core.graph.layout import Graph, build_graph
from drirl_core.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class Project:
    """Made once per command and passed as an argument, so that no function makes its own graph or store.

    Args:
        config: the configuration.
    """

    config: Config

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Project:
        """Read a YAML file, as `load_config` does.

        Args:
            path: the file.
            overrides: dotted keys to values, applied last.

        Raises:
            ConfigError: the file or a setting cannot be used.
        """
        return cls(load_config(path, overrides))

    @classmethod
    def of(cls, config: Config, graph: Graph, store: ArtifactStore) -> Project:
        """Return a project with a graph and a store that exist already.

        Args:
            config: the configuration.
            graph: its graph.
            store: its store.
        """
        project = cls(config)
        vars(project).update(graph=graph, store=store)  # where `cached_property` keeps what it made
        return project

    @functools.cached_property
    def graph(self) -> Graph:
        """All assets of the configuration.

        Raises:
            ConfigError: the taxonomy cannot be read.
        """
        return build_graph(self.config)

    @functools.cached_property
    def store(self) -> ArtifactStore:
        """Where its artifacts are.

        Raises:
            ConfigError: the root is a URI that cannot be used.
        """
        return ArtifactStore.of(self.config)
