"""The index of a store: which version the same inputs, code and configuration gave, and when it was last used."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drirl_core.disk import write_synced
from drirl_core.manifest import UNREADABLE
from drirl_core.remote import Remote

BY_INPUT = "by-input"


@dataclass(frozen=True)
class Entry:
    """One line of the index.

    Args:
        version: version of the artifact.
        used_at: when it was published or found again, in seconds since 1970.
    """

    version: str
    used_at: float


def parse_entry(text: bytes) -> Entry | None:
    """Read an index file; None when it is damaged."""
    with contextlib.suppress(*UNREADABLE):
        loaded = json.loads(text)
        return Entry(str(loaded["version"]), float(loaded["used_at"]))
    return None


class Index:
    """The index files of a store, on this machine and in its object store.

    Args:
        root: the local directory.
        remote: the object store, which then decides; the local files tell only what is not uploaded whole yet.
    """

    def __init__(self, root: Path, remote: Remote | None) -> None:
        self._root, self._remote = root, remote

    def version(self, asset: str, fingerprint: str) -> str | None:
        """Look up a version.

        Raises:
            UnreachableError: the object store cannot be asked.
        """
        texts = [self._remote.read(_key(asset, fingerprint)) or b""] if self._remote else []
        with contextlib.suppress(OSError):
            texts.append((self._root / _key(asset, fingerprint)).read_bytes())
        return next((entry.version for entry in map(parse_entry, texts) if entry), None)

    def newest(self, asset: str) -> str | None:
        """Return the version that was published or found again last.

        Raises:
            UnreachableError: the object store cannot be asked.
        """
        texts: Iterable[bytes] = self._local_texts(asset)
        if self._remote:
            names = self._remote.names(f"{asset}/{BY_INPUT}")
            texts = self._remote.read_all([f"{asset}/{BY_INPUT}/{name}" for name in names if name.endswith(".json")]).values()
        entries = [entry for entry in map(parse_entry, texts) if entry]
        return max(entries, key=lambda entry: (entry.used_at, entry.version)).version if entries else None

    def record_here(self, asset: str, fingerprint: str, version: str) -> None:
        """Record on this machine that these inputs give this version, now."""
        file = self._root / _key(asset, fingerprint)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        write_synced(temporary, json.dumps({"version": version, "used_at": time.time()}))
        temporary.replace(file)

    def upload(self, asset: str, fingerprint: str) -> None:
        """Copy what `record_here` recorded to the object store, if there is one.

        Raises:
            UnreachableError: it cannot be written.
        """
        if self._remote:
            self._remote.put(self._root / _key(asset, fingerprint), _key(asset, fingerprint))

    def _local_texts(self, asset: str) -> Iterator[bytes]:
        for file in (self._root / asset / BY_INPUT).glob("*.json"):
            with contextlib.suppress(OSError):
                yield file.read_bytes()


def _key(asset: str, fingerprint: str) -> str:
    return f"{asset}/{BY_INPUT}/{fingerprint}.json"
