"""A journal beside the artifacts: numbered entries, each written once, completely, and never changed.

`<root>/<name>/000001.json`, `000002.json`, ...: of several writers that want the same number exactly one gets it, on
one machine, on a shared disk, and in an object store that can write an object only if there is none (S3, Google Cloud
and Azure can). So an entry is never visible in part and never overwritten, and no lock is needed.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from drirl_core.errors import ArtifactError
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.disk import create_synced, disk_errors_explained
from drirl_core.store.remote import UnreachableError

_NUMBERED = re.compile(r"^(\d{6})\.json$")

_MOST_ATTEMPTS = 20

Entry = TypeVar("Entry")


class Journal:
    """Numbered entries of one name in one store.

    Args:
        store: the store that holds them.
        name: of their folder below the root.
    """

    def __init__(self, store: ArtifactStore, name: str) -> None:
        self._store, self._name = store, name
        self.place = f"{store.place}/{name}"

    def read(self) -> list[bytes]:
        """Return every entry, the oldest first.

        Raises:
            ArtifactError: an entry before the last one is missing, or the object store cannot be reached.
            OSError: an entry exists and cannot be read.
        """
        remote, folder = self._store.remote, self._store.root / self._name
        found = remote.names(self._name) if remote else os.listdir(folder) if folder.exists() else []
        names = sorted(name for name in found if _NUMBERED.match(name))
        expected = [_file(number) for number in range(1, len(names) + 1)]
        if names != expected:
            gone = next(name for name in expected if name not in names)
            raise ArtifactError(f"{gone} is missing among the entries of {self.place}")
        if remote is None:
            return [(folder / name).read_bytes() for name in names]
        read = remote.read_all([f"{self._name}/{name}" for name in names])
        return [read[f"{self._name}/{name}"] for name in names]

    def entries(self, make: Callable[[dict[str, Any]], Entry], loss: str = "") -> list[Entry]:
        """Return every entry as a record, the oldest first.

        Args:
            make: makes a record from the JSON object of an entry.
            loss: what is lost with the entries, in parentheses, for the message.

        Raises:
            ArtifactError: the journal cannot be read; an unreadable journal never counts as empty.
        """
        try:
            return [make(json.loads(text)) for text in self.read()]
        except UnreachableError:
            raise
        except (OSError, ArtifactError, ValueError, LookupError, TypeError) as error:
            raise ArtifactError(
                f"{self.place} cannot be read ({error}); restore it from a backup, or move it away to start with an "
                f"empty one{loss}"
            ) from error

    def write(self, number: int, text: str) -> bool:
        """Write an entry, unless there is one with this number.

        Args:
            number: number of present entries plus one.
            text: the entry.

        Returns:
            Whether it was written; False when another writer was first.

        Raises:
            ArtifactError: it cannot be written.
        """
        remote, name = self._store.remote, f"{self._name}/{_file(number)}"
        if remote:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / _file(number)
                file.write_text(text, encoding="utf-8")
                return remote.create(file, name)
        target = self._store.root / name
        with disk_errors_explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            return create_synced(target, text)

    def append(self, history: Callable[[], Sequence[Entry]], entry_after: Callable[[Sequence[Entry]], Entry]) -> Entry:
        """Append the entry that follows from the history, unless it is in it; when another writer was first, again.

        Args:
            history: reads all entries.
            entry_after: makes the entry, a dataclass, or returns the one of the history that says the same.

        Returns:
            The entry.

        Raises:
            ArtifactError: the journal cannot be read or written.
        """
        for _ in range(_MOST_ATTEMPTS):
            present = history()
            entry = entry_after(present)
            known = any(entry is old for old in present)
            if known or self.write(len(present) + 1, json.dumps(dataclasses.asdict(entry), indent=1)):
                return entry
        raise ArtifactError(f"{self.place} is written by other processes all the time; run again")


def now() -> str:
    """Return the present time in UTC, ISO 8601, as entries carry it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _file(number: int) -> str:
    return f"{number:06}.json"
