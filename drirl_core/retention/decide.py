"""What may be deleted, as pure functions over the content of a store.

A version is kept with the inputs that its manifest names, and with their inputs in turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from drirl_core.benchmarks.judges.recorded import JUDGE_ERRORS
from drirl_core.errors import ArtifactError
from drirl_core.promotion.ledger import PROMOTIONS
from drirl_core.runs.record import RUNS
from drirl_core.store.index import parse_entry
from drirl_core.store.manifest import UNREADABLE, artifacts_among, parse_manifest

STATE_FOLDERS = frozenset({PROMOTIONS, RUNS, JUDGE_ERRORS})
"""Folders in the root that hold no asset."""

Key = tuple[str, str]
"""Asset and version."""


@dataclass(frozen=True)
class Stored:
    """One version in the store.

    Args:
        asset: name of the asset.
        version: version of the artifact.
        bytes: size of its files.
        used_at: when it was published or last reused, in seconds since 1970.
        inputs: versions of the assets it was made from; None when its manifest cannot be read.
        entries: the index files that name it, relative to the root.
    """

    asset: str
    version: str
    bytes: int
    used_at: float
    inputs: Mapping[str, str] | None
    entries: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Asset and version."""
        return self.asset, self.version


@dataclass(frozen=True)
class Leftover:
    """Something that no artifact needs, left by an interrupted build, damage, deletion or write.

    Args:
        key: file or directory, relative to the root.
        bytes: its size.
        mirrored: whether it is in this machine's mirror of an object store, not in the store itself.
    """

    key: str
    bytes: int
    mirrored: bool = False


@dataclass(frozen=True)
class Stock:
    """Content of a store.

    Args:
        artifacts: every version.
        latest: of each asset, the version its index used last.
        leftovers: what no artifact needs.
        needed: versions that were recently used outside of the store.
    """

    artifacts: Mapping[Key, Stored]
    latest: Mapping[str, str]
    leftovers: tuple[Leftover, ...] = ()
    needed: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Decision:
    """What may be deleted.

    Args:
        kept: versions that stay.
        removable: versions that may be deleted, each before its inputs.
        missing: inputs of kept artifacts that are not in the store.
        unreadable: versions that stay because their manifest cannot be read.
        leftovers: what else may be deleted.
    """

    kept: tuple[Stored, ...]
    removable: tuple[Stored, ...]
    missing: tuple[Key, ...] = ()
    unreadable: tuple[Key, ...] = ()
    leftovers: tuple[Leftover, ...] = ()


@dataclass(frozen=True)
class Deleted:
    """What was deleted: less than decided if something was reused or resumed in the meantime.

    Args:
        versions: the deleted versions.
        leftovers: the deleted leftovers.
    """

    versions: tuple[Stored, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def bytes(self) -> int:
        """Total size."""
        return sum(one.bytes for one in (*self.versions, *self.leftovers))


def count(sizes: Mapping[Key, int], manifests: Mapping[Key, bytes], entries: Mapping[str, bytes]) -> Stock:
    """Build the stock from the content of a store.

    Args:
        sizes: bytes of each version.
        manifests: the text of each manifest that could be read.
        entries: the text of each index file, by its key `<asset>/by-input/<fingerprint>.json`.

    Returns:
        The stock; its leftovers are the index files that are damaged or name no version.
    """
    uses: dict[Key, list[tuple[float, str]]] = {}
    strays = []
    for key, text in entries.items():
        entry = parse_entry(text)
        target = (key.partition("/")[0], entry.version if entry else "")
        if entry and target in sizes:
            uses.setdefault(target, []).append((entry.used_at, key))
        else:
            strays.append(Leftover(key, len(text)))
    last: dict[str, tuple[float, str]] = {}
    for (asset, version), used in uses.items():
        last[asset] = max(last.get(asset, (-1.0, "")), (max(used)[0], version))
    artifacts = {key: _stored(key, size, manifests.get(key, b""), uses.get(key, [])) for key, size in sizes.items()}
    return Stock(artifacts, {asset: version for asset, (_, version) in last.items()}, tuple(strays))


def decide(stock: Stock, roots: Iterable[Key], newer_than: float) -> Decision:
    """Choose what may be deleted.

    Args:
        stock: the content of the store.
        roots: versions to keep with all their inputs, besides the latest of each asset.
        newer_than: versions used after this time are kept in the same way.

    Returns:
        The decision; each version is either kept or removable.
    """
    recent = [key for key, stored in stock.artifacts.items() if stored.used_at >= newer_than]
    unreadable = [key for key, stored in stock.artifacts.items() if stored.inputs is None]
    needed = reached([*roots, *stock.needed, *stock.latest.items(), *recent, *unreadable], stock.artifacts)
    kept = [stored for key, stored in stock.artifacts.items() if key in needed]
    removable = {key: stored for key, stored in stock.artifacts.items() if key not in needed}
    missing = sorted(needed - set(stock.artifacts))
    return Decision(tuple(kept), _users_first(removable), tuple(missing), tuple(unreadable), stock.leftovers)


def reached(starts: Iterable[Key], artifacts: Mapping[Key, Stored]) -> set[Key]:
    """Return the given versions and all their inputs in turn, as far as `artifacts` knows them."""
    waiting, found = list(starts), set[Key]()
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += _made_from(artifacts.get(key))
    return found


def _users_first(artifacts: Mapping[Key, Stored]) -> tuple[Stored, ...]:
    """Order versions so that an interrupted deletion leaves no version without its inputs."""
    inputs_first: list[Stored] = []
    seen: set[Key] = set()
    waiting = [(key, False) for key in artifacts]
    while waiting:
        key, inputs_done = waiting.pop()
        if inputs_done:
            inputs_first.append(artifacts[key])
        elif key not in seen:
            seen.add(key)
            waiting.append((key, True))
            waiting += [(made, False) for made in _made_from(artifacts[key]) if made in artifacts]
    return tuple(reversed(inputs_first))


def _made_from(stored: Stored | None) -> list[Key]:
    return list(artifacts_among((stored.inputs if stored else None) or {}).items())


def _stored(key: Key, size: int, manifest_text: bytes, uses: list[tuple[float, str]]) -> Stored:
    asset, version = key
    inputs: Mapping[str, str] | None = None
    used = [at for at, _ in uses]
    with contextlib.suppress(*UNREADABLE, ArtifactError):
        manifest = parse_manifest(manifest_text, asset, version, "/".join(key))
        used.append(float(manifest["created_at"]))
        inputs = {str(name): _text(made) for name, made in manifest["inputs"].items()}
    return Stored(asset, version, size, max(used, default=0.0), inputs, tuple(file for _, file in uses))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a version")
    return value
