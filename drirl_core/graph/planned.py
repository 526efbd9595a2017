"""The artifacts that a configuration names: those that its plan finds, never simply the latest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drirl_core.errors import ArtifactError, ConfigError, nearest
from drirl_core.graph.plan import Plan, plan
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact


@dataclass(frozen=True)
class Named:
    """The artifacts of a configuration, or of a result that was recorded.

    Args:
        project: the configuration, its graph and its store.
        build: the command that builds the configuration, for messages.
        versions: version of each asset of a recorded result; None for what the configuration plans.
    """

    project: Project
    build: str = "drirl run"
    versions: Mapping[str, str] | None = None

    def open(self, *names: str) -> dict[str, Artifact]:
        """Open artifacts; the plan is made once for all of them.

        Args:
            names: the assets.

        Returns:
            The artifacts by name.

        Raises:
            ArtifactError: one is not built, or its files are gone; the message says which command builds it.
            ConfigError: the configuration has no such asset.
            DataError: a source file cannot be read, so that it is not known what the configuration names.
        """
        unknown = next((name for name in names if name not in self.project.graph.nodes), None)
        if unknown:
            raise ConfigError(
                f"{unknown!r} is no asset of this configuration; {nearest(unknown, self.project.graph.nodes)}"
            )
        versions = self._planned(names) if self.versions is None else self._recorded(names, self.versions)
        return {name: self.project.store.open(name, version) for name, version in versions.items()}

    def one(self, name: str) -> Artifact:
        """Open one artifact, as `open` does."""
        return self.open(name)[name]

    def _planned(self, names: tuple[str, ...]) -> dict[str, str]:
        found = plan(self.project, names)
        versions = {name: found.assets[name].version for name in names}
        missing = next((name for name, version in versions.items() if version is None), None)
        if missing:
            raise ArtifactError(self._missing(missing, found))
        return {name: version for name, version in versions.items() if version}

    def _recorded(self, names: tuple[str, ...], versions: Mapping[str, str]) -> dict[str, str]:
        lacking = next((name for name in names if name not in versions), None)
        if lacking:
            raise ArtifactError(f"the recorded result holds no {lacking}; it holds {', '.join(versions) or 'nothing'}")
        return {name: versions[name] for name in names}

    def _missing(self, name: str, found: Plan) -> str:
        """Say that an asset is not built, why, and which command builds it."""
        first = found.pending[0]
        why = first.why if first.name == name else f"{first.name}: {first.why}"
        others = ""
        if self.project.store.was_made(name):
            others = " What is there was made from other settings or data; `drirl runs` lists results by name."
        return (
            f"there is no {name} of this configuration ({self.project.config.name}) under {self.project.store.place} "
            f"yet ({why}); `{self.build} --only {name}` builds it.{others}"
        )
