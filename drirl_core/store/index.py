"""The index of a store: which version the same inputs, code and configuration gave, and when it was last used."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from drirl_core.store.disk import disk_errors_explained, write_synced
from drirl_core.store.manifest import UNREADABLE
from drirl_core.store.remote import Remote, UnreachableError

BY_INPUT = "by-input"


@dataclass(frozen=True)
class Entry:
    """One line of the index.

    Args:
        version: version of the artifact.
        used_at: when it was published or last reused, in seconds since 1970.
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
        remote: the object store, which then decides; local files add only what is not completely uploaded yet.
    """

    def __init__(self, root: Path, remote: Remote | None) -> None:
        self._root, self._remote = root, remote

    def version(self, asset: str, fingerprint: str) -> str | None:
        """Look up a version.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        texts = [self._remote.read(_key(asset, fingerprint)) or b""] if self._remote else []
        with contextlib.suppress(OSError):
            texts.append((self._root / _key(asset, fingerprint)).read_bytes())
        return next((entry.version for entry in map(parse_entry, texts) if entry), None)

    def newest(self, asset: str) -> str | None:
        """Return the version that was published or reused last.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        records = self.records(asset)
        return records[0]["version"] if records else None

    def records(self, asset: str) -> list[dict[str, Any]]:
        """Return every entry of an asset, the newest first: `fingerprint`, `version`, `used_at` and recorded details.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        texts = self._remote_texts(asset) if self._remote else self._local_texts(asset)
        found = []
        for name, text in texts.items():
            entry = parse_entry(text)
            if entry:
                found.append({**json.loads(text), "fingerprint": PurePosixPath(name).stem, **dataclasses.asdict(entry)})
        return sorted(found, key=lambda record: (record["used_at"], record["version"]), reverse=True)

    def record_here(self, asset: str, fingerprint: str, version: str, details: Mapping[str, Any] | None = None) -> None:
        """Record on this machine that these inputs give this version, now.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration.
            version: version of the artifact.
            details: of the build; None when an artifact was reused, whose entry then keeps its details.

        Raises:
            ArtifactError: the disk is full or read-only.
        """
        file = self._root / _key(asset, fingerprint)
        kept: dict[str, Any] = {}
        with contextlib.suppress(OSError, *UNREADABLE):
            kept = dict(json.loads(file.read_text(encoding="utf-8")))
        texts = [*self._local_texts(asset).values()]
        with contextlib.suppress(UnreachableError):  # the upload that follows reports it
            texts += self._remote_texts(asset).values()
        uses = [entry.used_at for entry in map(parse_entry, texts) if entry]
        # A clock that was set back, or is behind that of another machine, must not make an older result the latest.
        used_at = max([time.time(), *(math.nextafter(use, math.inf) for use in uses)])
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with disk_errors_explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_synced(temporary, json.dumps({**kept, **(details or {}), "version": version, "used_at": used_at}))
            temporary.replace(file)

    def upload(self, asset: str, fingerprint: str) -> None:
        """Copy what `record_here` recorded to the object store, if there is one.

        Raises:
            UnreachableError: it cannot be written.
        """
        if self._remote:
            self._remote.put(self._root / _key(asset, fingerprint), _key(asset, fingerprint))

    def _remote_texts(self, asset: str) -> dict[str, bytes]:
        if self._remote is None:
            return {}
        names = self._remote.names(f"{asset}/{BY_INPUT}")
        return self._remote.read_all([f"{asset}/{BY_INPUT}/{name}" for name in names if name.endswith(".json")])

    def _local_texts(self, asset: str) -> dict[str, bytes]:
        texts: dict[str, bytes] = {}
        for file in (self._root / asset / BY_INPUT).glob("*.json"):
            with contextlib.suppress(OSError):
                texts[file.name] = file.read_bytes()
        return texts


def _key(asset: str, fingerprint: str) -> str:
    return f"{asset}/{BY_INPUT}/{fingerprint}.json"
