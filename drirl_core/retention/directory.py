"""Retention in a directory: the artifact root itself, or this machine's mirror of an object store."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from drirl_core.errors import ArtifactError
from drirl_core.retention.decide import STATE_FOLDERS, Decision, Deleted, Key, Leftover, Stock, Stored, count
from drirl_core.store.disk import disk_errors_explained
from drirl_core.store.index import BY_INPUT
from drirl_core.store.manifest import MANIFEST


class Directory:
    """Artifacts in a directory.

    Args:
        root: directory of the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def take_stock(self, newer_than: float) -> Stock:
        """Read every version, index file and leftover.

        Args:
            newer_than: time in seconds since 1970; work that changed after it is not a leftover.
        """
        sizes: dict[Key, int] = {}
        manifests: dict[Key, bytes] = {}
        entries: dict[str, bytes] = {}
        leftovers: list[Path] = []
        for folder in sorted(p for p in self.root.glob("[!.]*") if p.is_dir() and p.name not in STATE_FOLDERS):
            for file in sorted((folder / BY_INPUT).glob("*")):
                if file.suffix == ".json":
                    entries[self._key(file)] = file.read_bytes()
                else:  # an interrupted write
                    leftovers.append(file)
            for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != BY_INPUT):
                if path.name.startswith((".trash-", ".damaged-")):
                    leftovers.append(path)
                elif not path.name.startswith("."):
                    sizes[folder.name, path.name] = _size_of(path)
                    with contextlib.suppress(OSError):
                        manifests[folder.name, path.name] = (path / MANIFEST).read_bytes()
        leftovers += [p for p in sorted((self.root / ".work").glob("*")) if p.is_dir() and _touched_at(p) < newer_than]
        stock = count(sizes, manifests, entries)
        return dataclasses.replace(
            stock, leftovers=(*stock.leftovers, *(Leftover(self._key(p), _size_of(p)) for p in leftovers))
        )

    def delete(self, decision: Decision) -> Deleted:
        """Delete what may be deleted, so that at any moment every remaining version is complete.

        Args:
            decision: from `decide`, just made.

        Returns:
            What was deleted; work that was resumed is not included.

        Raises:
            ArtifactError: something is being built, or the disk cannot be written.
        """
        require_quiet(self.root)
        for stored in decision.removable:
            self.remove(stored)
        return Deleted(decision.removable, tuple(one for one in decision.leftovers if self.remove_leftover(one)))

    def remove(self, stored: Stored) -> None:
        """Delete one version: first its index files, then its directory by one rename.

        Raises:
            ArtifactError: the disk cannot be written.
        """
        with disk_errors_explained(self.root):
            for entry in stored.entries:
                (self.root / entry).unlink(missing_ok=True)
            path = self.root / stored.asset / stored.version
            trash = path.with_name(f".trash-{stored.version}-{time.time_ns()}")
            path.rename(trash)
            shutil.rmtree(trash)

    def remove_leftover(self, leftover: Leftover) -> bool:
        """Delete a leftover, unless it is work that was resumed; return whether it was deleted.

        Raises:
            ArtifactError: the disk cannot be written.
        """
        path = self.root / leftover.key
        with disk_errors_explained(self.root), contextlib.ExitStack() as held:
            if path.parent == self.root / ".work":
                try:
                    held.enter_context(FileLock(f"{path}.lock", timeout=0))
                except Timeout:
                    return False
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return True

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def require_quiet(root: Path) -> None:
    """Make sure that nothing is being built.

    Raises:
        ArtifactError: a process holds a lock; the message names the work.
    """
    busy = [file.stem for file in sorted((root / ".work").glob("*.lock")) if not _is_free(file)]
    if busy:
        raise ArtifactError(f"{', '.join(busy)} under {root} is being built; wait for it or stop it, then delete")


def _is_free(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    return sum(p.lstat().st_size for p in (path, *path.rglob("*")) if not p.is_dir())


def _touched_at(path: Path) -> float:
    try:
        return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:  # another process is working there
        return time.time()
