"""Which artifacts may go, and how they go: nothing that a promoted policy or a latest run was made from.

`take_stock` looks at the disk, `decide` is pure, `delete` acts. With each version that is kept stay the inputs that its
manifest names, and what those were made from.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from drirl_core.disk import disk_errors_explained
from drirl_core.errors import ArtifactError
from drirl_core.index import BY_INPUT, parse_entry
from drirl_core.manifest import MANIFEST, UNREADABLE, parse_manifest

PROMOTIONS = "promotions.json"
_PROMOTED = {"candidate": "promotion_candidate", "policy": "policy_checkpoint"}
"""Asset of each version that a promotion names."""

_SOURCE = "source_"
"""Inputs with this prefix are files outside the store."""

Key = tuple[str, str]
"""Asset and version."""


@dataclass(frozen=True)
class Stored:
    """One version in the store.

    Args:
        asset: name of the asset.
        version: version of the artifact.
        bytes: size of its files.
        used_at: when it was published or found again last, in seconds since 1970.
        inputs: version of each asset it was made from; None when its manifest cannot be read.
        entries: the index files that lead to it.
    """

    asset: str
    version: str
    bytes: int
    used_at: float
    inputs: Mapping[str, str] | None
    entries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Stock:
    """What lies in a store.

    Args:
        root: directory of the store.
        artifacts: every version.
        latest: of each asset, the version its index used last.
        leftovers: directories and files that no artifact needs: of broken-off work, damage, deletion or writing.
    """

    root: Path
    artifacts: Mapping[Key, Stored]
    latest: Mapping[str, str]
    leftovers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What may be deleted.

    Args:
        kept: versions that stay.
        removable: versions that may go.
        missing: inputs of kept artifacts that are not in the store.
        unreadable: versions that stay because nobody can tell what they are.
        leftovers: directories and files that may go.
    """

    kept: tuple[Stored, ...]
    removable: tuple[Stored, ...]
    missing: tuple[Key, ...] = ()
    unreadable: tuple[Key, ...] = ()
    leftovers: tuple[Path, ...] = ()


def promoted(root: Path) -> set[Key]:
    """Return the versions that the store's promotions name.

    Raises:
        ArtifactError: the file is there but cannot be understood; nothing may be deleted then.
    """
    file = root / PROMOTIONS
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["history"]
        if not isinstance(history, list):
            raise TypeError(f"history is {type(history).__name__}, not a list")
        return {(asset, _text(entry[name])) for entry in history for name, asset in _PROMOTED.items()}
    except FileNotFoundError:
        return set()
    except (OSError, *UNREADABLE) as error:
        raise ArtifactError(
            f"{file} cannot be read ({type(error).__name__}: {error}), so it is not known which policies are promoted; mend it first"
        ) from error


def take_stock(root: Path, newer_than: float) -> Stock:
    """Look at every version, index file and leftover of a store.

    Args:
        root: directory of the store.
        newer_than: time in seconds since 1970; work that was touched after it is not a leftover.
    """
    artifacts: dict[Key, Stored] = {}
    latest: dict[str, str] = {}
    leftovers: list[Path] = []
    for folder in sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith(".")):
        versions = sorted(p for p in folder.iterdir() if p.is_dir() and p.name != BY_INPUT)
        leftovers += [p for p in versions if p.name.startswith((".trash-", ".damaged-"))]
        entries: dict[str, list[tuple[float, Path]]] = {}
        for file in sorted((folder / BY_INPUT).glob("*")):
            entry = parse_entry(file.read_bytes()) if file.suffix == ".json" else None
            if entry and (folder / entry.version).is_dir():
                entries.setdefault(entry.version, []).append((entry.used_at, file))
            else:  # unreadable, leads nowhere, or was being written
                leftovers.append(file)
        if entries:
            latest[folder.name] = max(entries, key=lambda version: (max(entries[version])[0], version))
        for path in versions:
            if not path.name.startswith("."):
                artifacts[folder.name, path.name] = _stored(path, entries.get(path.name, []))
    leftovers += [p for p in sorted((root / ".work").glob("*")) if p.is_dir() and _touched_at(p) < newer_than]
    return Stock(root, artifacts, latest, tuple(leftovers))


def decide(stock: Stock, roots: Iterable[Key], newer_than: float) -> Decision:
    """Choose what may be deleted.

    Args:
        stock: what there is.
        roots: versions to keep with all they were made from, besides the latest of each asset.
        newer_than: versions used after this time are kept in the same way.

    Returns:
        The decision; each version is either kept or removable.
    """
    recent = [key for key, stored in stock.artifacts.items() if stored.used_at >= newer_than]
    unreadable = [key for key, stored in stock.artifacts.items() if stored.inputs is None]
    waiting = [*roots, *stock.latest.items(), *recent, *unreadable]
    reached: set[Key] = set()
    while waiting:
        key = waiting.pop()
        if key not in reached:
            reached.add(key)
            inputs = stock.artifacts[key].inputs if key in stock.artifacts else None
            waiting += [(name, version) for name, version in (inputs or {}).items() if not name.startswith(_SOURCE)]
    kept = [stored for key, stored in stock.artifacts.items() if key in reached]
    removable = [stored for key, stored in stock.artifacts.items() if key not in reached]
    missing = sorted(reached - set(stock.artifacts))
    return Decision(tuple(kept), tuple(removable), tuple(missing), tuple(unreadable), stock.leftovers)


def require_quiet(root: Path) -> None:
    """Make sure that nothing is being built.

    Raises:
        ArtifactError: a process holds a lock; the message names the work.
    """
    busy = [file.stem for file in sorted((root / ".work").glob("*.lock")) if not _is_free(file)]
    if busy:
        raise ArtifactError(f"{', '.join(busy)} under {root} is being built; wait for it or stop it, then delete")


def delete(root: Path, decision: Decision) -> int:
    """Delete what may go, so that whatever is left at any moment is whole.

    Args:
        root: directory of the store.
        decision: from `decide`, a moment ago.

    Returns:
        Number of leftovers removed; fewer than decided when somebody took up the work again.

    Raises:
        ArtifactError: something is being built, or the disk refuses.
    """
    require_quiet(root)
    with disk_errors_explained(root):
        for stored in decision.removable:
            for entry in stored.entries:
                entry.unlink(missing_ok=True)
            path = root / stored.asset / stored.version
            trash = path.with_name(f".trash-{stored.version}-{time.time_ns()}")
            path.rename(trash)
            shutil.rmtree(trash)
        return sum(_remove_leftover(root, path) for path in decision.leftovers)


def _remove_leftover(root: Path, path: Path) -> bool:
    if path.parent != root / ".work":
        _remove(path)
        return True
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        _remove(path)
    finally:
        lock.release()
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_free(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def _stored(path: Path, entries: list[tuple[float, Path]]) -> Stored:
    asset, version = path.parent.name, path.name
    inputs: Mapping[str, str] | None = None
    used = [at for at, _ in entries]
    with contextlib.suppress(OSError, *UNREADABLE, ArtifactError):
        manifest = parse_manifest((path / MANIFEST).read_bytes(), asset, version, path)
        used.append(float(manifest["created_at"]))
        inputs = {str(name): _text(made) for name, made in manifest["inputs"].items()}
    return Stored(asset, version, size_of(path), max(used, default=0.0), inputs, tuple(file for _, file in entries))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    return sum(p.lstat().st_size for p in (path, *path.rglob("*")) if not p.is_dir())


def _touched_at(path: Path) -> float:
    try:
        return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:  # somebody is at work there
        return time.time()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a version")
    return value
