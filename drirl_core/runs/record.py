"""The record of results: which artifacts a run or an evaluation gave, under which name, from which settings.

Each result is a numbered entry that is written once (`drirl_core.store.journal`). A name points to the last entry that
has it, so that pointer and history can never disagree; an entry that forgets a name releases its artifacts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drirl_core.config import Config, from_resolved, resolved
from drirl_core.errors import ArtifactError, ConfigError, nearest
from drirl_core.graph.policies import POLICIES
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.store.journal import Journal, now
from drirl_core.store.remote import UnreachableError

RUNS = "runs"
"""Folder of the record below the root of the artifacts."""
RESERVED = (*POLICIES, "promoted")
"""Words that mean something else where the name of a result is expected."""
ID_DIGITS = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_LONGEST_NAME = 63


@dataclass(frozen=True)
class Result:
    """One entry of the record.

    Args:
        kind: `run`, `evaluation`, or `forget` for an entry that releases a name.
        name: the name given by the user; empty for a result without one.
        config_name: `name` of its configuration.
        file: the configuration file as it was given.
        plain: whether it was run as the file says, without `--set`.
        seed: of the aligned policy, which is that of the run unless `policy.seed` gives another.
        at: time in UTC, ISO 8601.
        versions: version of each artifact by name of the asset.
        config: the resolved configuration.
        subject: what an evaluation measured; empty for a run.
    """

    kind: Literal["run", "evaluation", "forget"]
    name: str
    config_name: str = ""
    file: str = ""
    plain: bool = True
    seed: int = 0
    at: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    subject: str = ""

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that identify what it holds, whatever it is called."""
        text = json.dumps([self.kind, self.subject, self.versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]

    @property
    def label(self) -> str:
        """How people call it: its name, else its id."""
        return self.name or self.id

    @property
    def alias(self) -> str:
        """What a result without a name may be called as well: its configuration, or what it measured."""
        if self.name or not self.plain:
            return ""
        return self.subject if self.kind == "evaluation" else self.config_name

    def project(self, present: Project) -> Project:
        """Return the project of the configuration that gave it, with the store and models where they are now.

        Args:
            present: says where artifacts and models are on this machine.
        """
        places = {name: getattr(present.config, name) for name in ("root", "mirror")}
        config = from_resolved(self.config)
        models = dataclasses.replace(config.models, cache=present.config.models.cache)
        return Project(dataclasses.replace(config, **places, models=models))

    @property
    def base(self) -> str:
        """The file that its configuration started from."""
        return str(self.config.get("base", {}).get("file", ""))

    @property
    def differences(self) -> list[str]:
        """How its configuration differs from its base file, one text per setting."""
        rows = self.config.get("base", {}).get("differences", [])
        return [f"{row['setting']}: {row['before']} -> {row['now']}" for row in rows]


class Results:
    """The recorded results of one artifact store.

    Args:
        store: holds the artifacts.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store, self._journal = store, Journal(store, RUNS)

    @property
    def store(self) -> ArtifactStore:
        """The store whose results these are."""
        return self._store

    def history(self) -> list[Result]:
        """Return every entry, the oldest first.

        Raises:
            ArtifactError: the record cannot be read; an unreadable record never counts as empty.
        """
        loss = " (the artifacts stay, their names are lost)"
        return self._journal.entries(lambda row: Result(**row), loss)

    def present(self) -> list[Result]:
        """Return the results that can still be asked for, the oldest first.

        Of each name the last one counts; a result that was recorded again without a name counts once.
        """
        return _present(self.history())

    def named(self) -> list[Result]:
        """Return the result that each name points to."""
        return [entry for entry in self.present() if entry.name]

    def record(self, result: Result) -> Result:
        """Append a result, unless it is there already in the same words.

        Args:
            result: the entry; its name is checked.

        Returns:
            The entry, or the equal one that is there.

        Raises:
            ConfigError: the name cannot be used.
            ArtifactError: the record cannot be read or written.
        """
        check_name(result.name)

        def entry_after(history: Sequence[Result]) -> Result:
            same = (entry for entry in _present(history) if _equal(entry, result))
            return next(same, result)

        return self._journal.append(self.history, entry_after)

    def forget(self, name: str) -> Result:
        """Release a name: its artifacts are no longer kept because of it.

        Raises:
            ArtifactError: no result has this name, or the record cannot be read or written.
        """
        known = {entry.name: entry for entry in self.named()}
        if name not in known:
            raise ArtifactError(f"no result is called {name!r}; {nearest(name, known)}")
        self._journal.append(self.history, lambda _: Result("forget", name, at=now()))
        return known[name]

    def find(self, text: str) -> Result:
        """Return the result that a user means.

        Args:
            text: a name; the beginning of an id; the name of a configuration, which means the last run of its file
                without `--set` and without a name; or what an evaluation without a name measured.

        Raises:
            ArtifactError: there is none, or an id names several; the message lists what there is.
        """
        present = self.present()
        named = [entry for entry in present if entry.name == text]
        by_id = {entry.id: entry for entry in present if len(text) >= 4 and entry.id.startswith(text)}
        plain = [
            entry
            for entry in present
            if entry.kind == "run" and not entry.name and entry.plain and entry.config_name == text
        ]
        measured = [entry for entry in present if not entry.name and entry.subject and entry.subject == text]
        found = named[-1:] or list(by_id.values()) or plain[-1:] or measured[-1:]
        if len(found) == 1:
            return found[0]
        known = list(dict.fromkeys(name for entry in present for name in (entry.label, entry.alias) if name))
        if found:
            raise ArtifactError(f"{text!r} is the beginning of {len(found)} ids: {', '.join(by_id)}; give more of it")
        if not known:
            raise ArtifactError(
                f"no result is recorded under {self._store.place} yet; `drirl run --name NAME` records one, and "
                "`drirl eval` records an evaluation"
            )
        raise ArtifactError(f"no result is called {text!r}; {nearest(text, known)}. `drirl runs` lists them")

    def open(self, result: Result, asset: str) -> Artifact:
        """Open an artifact of a result.

        Raises:
            ArtifactError: the result does not hold the asset, or its files are gone.
        """
        version = result.versions.get(asset)
        if version is None:
            raise ArtifactError(
                f"the result {result.label} holds no {asset}; it holds {', '.join(result.versions) or 'nothing'}"
            )
        try:
            return self._store.open(asset, version)
        except UnreachableError:
            raise
        except ArtifactError as error:
            raise ArtifactError(
                f"{asset} {version} of the result {result.label} is gone ({error}); only named results are kept by "
                "`drirl gc`. Make it again with the configuration that `drirl runs --json` shows"
            ) from error


def check_name(name: str) -> None:
    """Refuse a name that cannot be told from something else.

    Raises:
        ConfigError: it has other characters than letters, digits, `.`, `_` and `-`, is too long, or is a word that
            means a policy or an asset.
    """
    if not name:
        return
    if not _NAME.match(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"--name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most "
            f"{_LONGEST_NAME} characters"
        )
    if name in RESERVED or name in STAGES:
        raise ConfigError(f"--name {name!r} means something else ({', '.join(RESERVED)}, or a stage); choose another")


def result_of_run(config: Config, file: str, name: str, plain: bool, versions: Mapping[str, str]) -> Result:
    """Describe what a run gave.

    Args:
        config: its configuration.
        file: the configuration file as it was given.
        name: the name given by the user, or an empty text.
        plain: whether it was run as the file says.
        versions: version of each artifact by name of the asset.
    """
    return Result(
        "run", name, config.name, file, plain, config.seed_of(config.policy), now(), dict(versions), resolved(config)
    )


def pinned(results: Sequence[Result]) -> set[tuple[str, str]]:
    """Return asset and version of everything that named results hold."""
    return {(asset, version) for entry in results if entry.name for asset, version in entry.versions.items()}


def _present(history: Sequence[Result]) -> list[Result]:
    """Return the results of a history that can still be asked for; see `Results.present`."""
    found: dict[tuple[str, str], Result] = {}
    for entry in history:
        key = ("name", entry.name) if entry.name else ("id", entry.id)
        found.pop(key, None)
        if entry.kind != "forget":
            found[key] = entry
    return list(found.values())


def _equal(one: Result, other: Result) -> bool:
    """Tell whether two entries say the same, whatever their time."""
    return dataclasses.replace(one, at="") == dataclasses.replace(
        other, at="", config=json.loads(json.dumps(other.config)), versions=dict(other.versions)
    )
