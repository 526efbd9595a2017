"""Similar pairs among many prompts: MinHash sketches of blocks of prompts, made and compared as arrays.

The set of a prompt's words and letter triples is the union of the sets of its words, and of one triple for each blank
between two words. So the least hash of a prompt is the least of these units' hashes, which are computed once per block
and not once per prompt. Bands of a sketch propose pairs; a bitmap of each set then excludes nearly all that are not
similar enough: a bit that only one of the sets has is at least one member that only this set has.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

_PERMUTATIONS = ((20_000, 256), (None, 768))
"""Up to how many prompts so many hash functions are used: longer bands propose fewer of the pairs, whose number grows
with the square of the prompts, but need more hash functions to miss none."""
_MISS = 1e-4
_BLOCK = 8192
_PART = 256
_BITS = 1024
_ROUNDING = 1e-9
_PAIRS = 1 << 18
_LOW = 0xFFFFFFFF

_R = TypeVar("_R")


@dataclass(frozen=True)
class Sketches:
    """What is kept of N sets.

    Args:
        bands: (B, N) uint32; two sets with an equal value in one band may be similar.
        bits: (N, 16) uint64 bitmaps, one bit per hash value of a member.
        sizes: (N,) int64 members of each set.
    """

    bands: np.ndarray
    bits: np.ndarray
    sizes: np.ndarray


def rows_per_band(threshold: float, permutations: int) -> int:
    """Return the longest band that misses a pair at the threshold with a probability of at most 1e-4; at least 1.

    Args:
        threshold: similarity in (0, 1].
        permutations: number of hash functions, shared out among the bands.
    """
    fitting = [rows for rows in range(1, 17) if (1 - threshold**rows) ** (permutations // rows) <= _MISS]
    return max(fitting, default=1)


def permutations_for(count: int) -> int:
    """Return how many hash functions so many sets are sketched with."""
    return next(number for most, number in _PERMUTATIONS if most is None or count <= most)


@functools.lru_cache(maxsize=1 << 16)  # the blocks share their frequent words
def unit_shingles(unit: str) -> tuple[str, ...]:
    """Return the shingles of a unit: a word with its letter triples, or the one triple around a blank.

    Args:
        unit: a word; or two letters with a blank between them, the last of one word and the first of the next.
    """
    if len(unit) == 3 and unit[1] == " ":
        return (unit,)
    text = f" {unit} "
    # A mark that no triple can hold separates a word from the triple with the same letters.
    return (f"={unit}", *map("".join, zip(text, text[1:], text[2:], strict=False)))


def units(words: Sequence[str]) -> list[str]:
    """Return the units of a prompt's words: the union of their shingles is the prompt's set."""
    return [*words, *(f"{one[-1]} {other[0]}" for one, other in pairwise(words))]


def sketch(wordings: Sequence[str], threshold: float, permutations: int) -> Sketches:
    """Sketch many prompts.

    Args:
        wordings: N texts of words with single blanks between them, without any mark; an empty one has an empty set.
        threshold: similarity in (0, 1] that two similar sets have at least.
        permutations: number of hash functions.
    """
    import numpy as np

    rows = rows_per_band(threshold, permutations)
    bands = permutations // rows
    count = len(wordings)
    found = Sketches(
        np.zeros((bands, count), np.uint32), np.zeros((count, _BITS // 64), np.uint64), np.zeros(count, np.int64)
    )

    def work(start: int) -> None:
        _sketch_block(wordings[start : start + _BLOCK], start, found, rows)

    for _ in _in_threads(work, range(0, count, _BLOCK)):
        pass
    return found


def pairs_within(sketches: Sketches, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs (a, b), a < b, of sets that may reach the threshold, each once and in order.

    Args:
        sketches: of N sets.
        threshold: similarity in (0, 1].
    """
    import numpy as np

    # By size, so that of equal values each set is followed by sets that are ever less like it in size.
    order = np.argsort(sketches.sizes, kind="stable")
    order = order[sketches.sizes[order] > 0]
    sizes, numbers = sketches.sizes[order], np.arange(len(order), dtype=np.uint64)

    def work(band: int) -> np.ndarray:
        keys = np.sort(sketches.bands[band][order].astype(np.uint64) << np.uint64(32) | numbers)
        values, members = (keys >> np.uint64(32)).astype(np.uint32), (keys & np.uint64(_LOW)).astype(np.int64)
        alone = np.ones(len(values) + 1, bool)
        alone[1:-1] = values[1:] != values[:-1]
        shared = np.flatnonzero(~(alone[1:] & alone[:-1]))
        return _neighbours(values[shared], order[members[shared]], sizes[members[shared]], sketches.bits, threshold)

    yield from _merged(_in_threads(work, range(len(sketches.bands))))


def _neighbours(
    values: np.ndarray, members: np.ndarray, sizes: np.ndarray, bitmaps: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the pairs of members with equal values that may be similar, as `_numbered` does.

    Args:
        values: (N,) sorted.
        members: (N,) numbers of sets.
        sizes: (N,) of these sets, rising within equal values.
        bitmaps: of all sets.
        threshold: similarity in (0, 1].
    """
    import numpy as np

    bits, found = bitmaps[members], [np.zeros(0, np.uint64)]  # side by side: pairs are then read in order
    at, distance = np.arange(len(values)), 1
    while len(at):
        at = at[at + distance < len(values)]
        other = at + distance
        # |A and B| / |A or B| <= |A| / |B|: a larger set that follows fits no better.
        at = at[(values[at] == values[other]) & (sizes[at] >= sizes[other] * (threshold - _ROUNDING))]
        for start in range(0, len(at), _PAIRS):
            a = at[start : start + _PAIRS]
            b = a + distance
            fits = _may_reach(bits[a], bits[b], sizes[a] + sizes[b], threshold)
            first, second = members[a[fits]], members[b[fits]]
            found.append(_numbered(np.minimum(first, second), np.maximum(first, second)))
        distance += 1
    return np.unique(np.concatenate(found))


def pairs_between(first: Sketches, second: Sketches, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs (a, b) of a set in `first` and one in `second` that may be similar, each once and in order.

    Args:
        first: of N sets.
        second: of M sets, made with as many hash functions.
        threshold: similarity in (0, 1].
    """
    import numpy as np

    rows, columns = np.flatnonzero(first.sizes), np.flatnonzero(second.sizes)
    if not len(rows) or not len(columns):
        return

    def work(band: int) -> np.ndarray:
        order = columns[np.argsort(second.bands[band][columns], kind="stable")]
        known, wanted = second.bands[band][order], first.bands[band][rows]
        found = [np.zeros(0, np.uint64)]
        for a, b in _equal_values(wanted, rows, known, order):
            fits = _may_reach(first.bits[a], second.bits[b], first.sizes[a] + second.sizes[b], threshold)
            found.append(_numbered(a[fits], b[fits]))
        return np.unique(np.concatenate(found))

    yield from _merged(_in_threads(work, range(len(first.bands))))


def _equal_values(
    wanted: np.ndarray, rows: np.ndarray, known: np.ndarray, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of a row and a column with equal values; those of the columns are sorted."""
    import numpy as np

    place = np.searchsorted(known, wanted)
    found = np.flatnonzero(place < len(known))
    while len(found):
        found = found[known[place[found]] == wanted[found]]
        yield rows[found], columns[place[found]]
        place[found] += 1
        found = found[place[found] < len(known)]


def _may_reach(first: np.ndarray, second: np.ndarray, total: np.ndarray, threshold: float) -> np.ndarray:
    """Say for each pair of sets whether their bitmaps leave it possible that they reach the threshold.

    |A or B| = (total + d) / 2 and |A and B| = (total - d) / 2, where d members are in one of the sets only, and d is at
    least the number of bits that differ.

    Args:
        first: (N, 16) bitmaps.
        second: (N, 16) bitmaps.
        total: (N,) members of both sets together.
        threshold: similarity in (0, 1].
    """
    import numpy as np

    differ = np.bitwise_count(first ^ second).sum(axis=1, dtype=np.int64)
    return (total - differ) >= (total + differ) * (threshold - _ROUNDING)


def _numbered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return one number for each pair: a * 2^32 + b."""
    import numpy as np

    return a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64)


def _merged(parts: Iterator[np.ndarray]) -> Iterator[tuple[int, int]]:
    import numpy as np

    merged, waiting, size = np.zeros(0, np.uint64), [], 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size > 4 * _PAIRS + len(merged):
            merged, waiting, size = np.unique(np.concatenate([merged, *waiting])), [], 0
    merged = np.unique(np.concatenate([merged, *waiting]))
    for start in range(0, len(merged), _PAIRS):
        part = merged[start : start + _PAIRS]
        a, b = part >> np.uint64(32), part & np.uint64(_LOW)
        yield from zip(a.tolist(), b.tolist(), strict=True)


class _Numbers(dict[str, int]):
    """Number keys in the order in which they are met."""

    def __missing__(self, key: str) -> int:
        number = self[key] = len(self)
        return number


def _sketch_block(wordings: Sequence[str], start: int, found: Sketches, rows: int) -> None:
    """Write the sketches of some prompts into the columns of `found` from `start` on."""
    import numpy as np

    split = [units(wording.split(" ")) if wording else [] for wording in wordings]
    numbers, shingle_numbers = _Numbers(), _Numbers()
    flat = np.fromiter(map(numbers.__getitem__, (unit for one in split for unit in one)), np.int64)
    lengths = np.fromiter(map(len, split), np.int64, len(split))
    if not len(flat):
        return
    parts = [unit_shingles(unit) for unit in numbers]
    members = np.fromiter(map(shingle_numbers.__getitem__, (text for part in parts for text in part)), np.int64)
    member_lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    hashes = _mixed(
        np.fromiter((zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in shingle_numbers), np.uint32)
    )
    starts = np.concatenate([[0], np.cumsum(member_lengths)])
    found.sizes[start : start + len(split)] = _distinct(flat, lengths, members, starts, len(hashes))
    unit_bits = np.bitwise_or.reduceat(_bitmaps(hashes)[members], starts[:-1], axis=0)
    multipliers, summands = _affine(rows * len(found.bands))
    table = hashes[:, None] * multipliers + summands
    least = _least(table, members, member_lengths)
    first = np.concatenate([[0], np.cumsum(lengths)])
    for begin in range(0, len(split), _PART):
        end = min(begin + _PART, len(split))
        part, sizes = flat[first[begin] : first[end]], lengths[begin:end]
        signature = _least(least, part, sizes)
        bands = found.bands[:, start + begin : start + end]
        for row in range(rows):
            bands *= np.uint32(0x9E3779B1)
            bands += signature[:, row::rows].T
        filled = np.flatnonzero(sizes)
        offsets = (first[begin:end] - first[begin])[filled]
        found.bits[start + begin + filled] = np.bitwise_or.reduceat(unit_bits[part], offsets, axis=0)


def _least(table: np.ndarray, members: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the column-wise minimum of the rows of each group; groups lie one after the other in `members`.

    One pass takes the k-th member of every group that has so many; a reduction per group would be called more often.

    Args:
        table: (V, P).
        members: rows of the table.
        lengths: (N,) members of each group; a group without any gives the largest value.

    Returns:
        (N, P).
    """
    import numpy as np

    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    having = lengths[order]
    least = np.full((len(lengths), table.shape[1]), np.iinfo(np.uint32).max, np.uint32)
    buffer = np.empty_like(least)
    for place in range(int(having[0]) if len(having) else 0):
        count = int(np.searchsorted(-having, -place, side="left"))
        np.take(table, members[starts[:count] + place], axis=0, out=buffer[:count], mode="clip")
        np.minimum(least[:count], buffer[:count], out=least[:count])
    result = np.empty_like(least)
    result[order] = least
    return result


def _distinct(
    flat: np.ndarray, lengths: np.ndarray, members: np.ndarray, starts: np.ndarray, shingles: int
) -> np.ndarray:
    """Count the different shingles of each prompt.

    Args:
        flat: units of all prompts, one prompt after the other.
        lengths: (N,) units of each prompt.
        members: shingles of all units, one unit after the other.
        starts: where those of each unit start, and their end.
        shingles: number of different shingles.
    """
    import numpy as np

    of_unit = np.diff(starts)[flat]
    owner = np.repeat(np.repeat(np.arange(len(lengths)), lengths), of_unit)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(of_unit) - of_unit, of_unit)
    keys = np.sort(owner * shingles + members[np.repeat(starts[flat], of_unit) + within])
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    return np.bincount(keys[new] // shingles, minlength=len(lengths))


def _bitmaps(hashes: np.ndarray) -> np.ndarray:
    """Return (V, 16) bitmaps with one bit per hash value."""
    import numpy as np

    bit = hashes.astype(np.int64) % _BITS
    table = np.zeros((len(hashes), _BITS // 64), np.uint64)
    table[np.arange(len(hashes)), bit // 64] = np.uint64(1) << (bit % 64).astype(np.uint64)
    return table


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread hash values of 32 bits (the last step of MurmurHash3)."""
    import numpy as np

    hashes = (hashes ^ hashes >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ hashes >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return hashes ^ hashes >> np.uint32(16)


@functools.cache
def _affine(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors and summands of permutations of the numbers below 2^32; odd factors make them bijective."""
    import numpy as np

    draw = np.random.Generator(np.random.PCG64(1))
    numbers = draw.integers(0, 1 << 32, (2, max(count for _, count in _PERMUTATIONS)), np.uint32)
    return numbers[0, :permutations] | np.uint32(1), numbers[1, :permutations]


def _in_threads(work: Callable[[int], _R], items: Sequence[int]) -> Iterator[_R]:
    """Yield the results in order; the arrays are worked on without Python's lock."""
    threads = min(len(items), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if threads < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)
