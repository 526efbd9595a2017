"""Retention in an object store that other machines use at the same time.

Locks of other machines are not visible. They are protected in two ways: what they used recently is kept, and each
version is checked again immediately before it is deleted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from drirl_core.retention.decide import STATE_FOLDERS, Decision, Deleted, Key, Leftover, Stock, Stored, count, reached
from drirl_core.retention.directory import Directory, require_quiet
from drirl_core.store.index import BY_INPUT, Entry, parse_entry
from drirl_core.store.manifest import MANIFEST
from drirl_core.store.remote import Remote


class Objects:
    """Artifacts in an object store, with copies on this machine.

    Args:
        remote: the object store.
        mirror: the local copies.
    """

    def __init__(self, remote: Remote, mirror: Directory) -> None:
        self._remote, self._mirror = remote, mirror

    def take_stock(self, newer_than: float) -> Stock:
        """Read every version, index file and leftover, and the local copies.

        Args:
            newer_than: time in seconds since 1970; what was written after it is not a leftover.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        sizes: dict[Key, int] = {}
        files: dict[Key, list[str]] = {}
        index: dict[str, int] = {}
        for key, size in self._remote.sizes("").items():
            asset, _, rest = key.partition("/")
            folder, _, name = rest.partition("/")
            if not name or asset.startswith(".") or asset in STATE_FOLDERS:
                continue
            if folder == BY_INPUT:
                index[key] = size
            else:
                sizes[asset, folder] = sizes.get((asset, folder), 0) + size
                files.setdefault((asset, folder), []).append(key)
        published = {key for key in sizes if _manifest_of(key) in files[key]}
        entries = self._remote.read_all([key for key in index if key.endswith(".json")])
        manifests = self._remote.read_all([_manifest_of(key) for key in published])
        stock = count(
            {key: size for key, size in sizes.items() if key in published},
            {key: manifests[_manifest_of(key)] for key in published if _manifest_of(key) in manifests},
            entries,
        )
        # An incomplete version may be an upload in progress of another machine, so it must be old.
        strays = [*stock.leftovers, *(Leftover(key, index[key]) for key in index if not key.endswith(".json"))]
        unfinished = [key for key in sizes if key not in published and self._all_older(files[key], newer_than)]
        here = self._mirror.take_stock(newer_than)
        return dataclasses.replace(
            stock,
            leftovers=(
                *(stray for stray in strays if self._all_older([stray.key], newer_than)),
                *(Leftover("/".join(key), sizes[key]) for key in unfinished),
                # An index file without a local copy may still name a version in the object store.
                *(dataclasses.replace(one, mirrored=True) for one in here.leftovers if f"/{BY_INPUT}/" not in one.key),
            ),
            needed=_used_recently(here, newer_than) & frozenset(stock.artifacts),
        )

    def delete(self, decision: Decision) -> Deleted:
        """Delete what may be deleted, with its local copies, so that every remaining version is always complete.

        Args:
            decision: from `decide`, just made.

        Returns:
            What was deleted; versions and uploads that another machine reused or resumed are not included.

        Raises:
            ArtifactError: something is being built on this machine, or its disk cannot be written.
            UnreachableError: the object store cannot be changed; the next deletion continues.
        """
        require_quiet(self._mirror.root)
        copies = self._mirror.take_stock(0.0).artifacts
        removable = {stored.key: stored for stored in decision.removable}
        known = {entry for stored in (*decision.kept, *decision.removable) for entry in stored.entries}
        spared: set[Key] = set()
        deleted = []
        for key, stored in removable.items():
            if key in spared:
                continue
            entries = self._entries_now(stored, known)
            if any(name not in stored.entries or entry.used_at > stored.used_at for name, entry in entries.items()):
                spared |= reached(
                    [key], removable
                )  # their turn is still to come: each version goes before what it was made from
                continue
            if key in copies:  # before the version, which a deletion that stops here finds again
                self._mirror.remove(copies[key])
            self._remove(key, entries)
            deleted.append(stored)
        return Deleted(tuple(deleted), tuple(one for one in decision.leftovers if self._remove_leftover(one)))

    def _entries_now(self, stored: Stored, known: set[str]) -> dict[str, Entry]:
        """Read again which index files name a version; files known to name another version are not read."""
        names = self._remote.names(f"{stored.asset}/{BY_INPUT}")
        keys = {f"{stored.asset}/{BY_INPUT}/{name}" for name in names if name.endswith(".json")}
        texts = self._remote.read_all(sorted(keys - known | keys & set(stored.entries)))
        entries = {key: parse_entry(text) for key, text in texts.items()}
        return {key: entry for key, entry in entries.items() if entry and entry.version == stored.version}

    def _remove(self, key: Key, entries: Iterable[str]) -> None:
        for entry in entries:
            self._remote.remove(entry)
        self._remote.remove(_manifest_of(key))  # from here on the version no longer exists
        self._remote.remove("/".join(key))

    def _remove_leftover(self, leftover: Leftover) -> bool:
        if leftover.mirrored:
            return self._mirror.remove_leftover(leftover)
        if self._was_resumed(leftover):
            return False
        self._remote.remove(leftover.key)
        return True

    def _was_resumed(self, leftover: Leftover) -> bool:
        """Tell whether another machine resumed an upload since the stock was read."""
        asset, _, folder = leftover.key.partition("/")
        if folder.startswith(f"{BY_INPUT}/"):
            entry = parse_entry(self._remote.read(leftover.key) or b"")
            return entry is not None and self._remote.read(_manifest_of((asset, entry.version))) is not None
        return sum(self._remote.sizes(leftover.key).values()) != leftover.bytes

    def _all_older(self, keys: list[str], newer_than: float) -> bool:
        times = map(self._remote.modified_at, keys)
        return all(at is not None and at < newer_than for at in times)


def _used_recently(here: Stock, newer_than: float) -> set[Key]:
    """Return what this machine used recently, with its inputs: an interrupted upload does not tell the store."""
    return reached([key for key, stored in here.artifacts.items() if stored.used_at >= newer_than], here.artifacts)


def _manifest_of(key: Key) -> str:
    return f"{key[0]}/{key[1]}/{MANIFEST}"
