"""Exact and near duplicates, and the overlap of training prompts with benchmark prompts.

Two prompts are compared by the Jaccard similarity of their words and letter triples, after case, punctuation and
Unicode form are normalised: words alone are too few in a prompt of ten words, and triples alone do not see the
order of words. MinHash proposes candidate pairs; the exact similarity decides.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from drirl_core.prompts.sketches import (
    Sketches,
    pairs_between,
    pairs_within,
    permutations_for,
    sketch,
    unit_shingles,
    units,
)

# In scripts written without blanks every letter counts as one word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
)
_ASCII_WORD = re.compile("[a-z0-9]+")
_APOSTROPHES = str.maketrans("", "", "'\u2018\u2019\u02bc`")
_CONTAINED_WORDS = 6
_SETS = 2048


@dataclass(frozen=True)
class Duplicate:
    """Why a prompt is not kept.

    Args:
        of: index of the prompt that is kept in its place.
        similarity: Jaccard similarity of the two, in [0, 1]; 1 for equal wording.
        exact: whether the two have the same words in the same order.
    """

    of: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class DuplicateReport:
    """Groups of prompts that resemble each other.

    Args:
        group: for each of N prompts the smallest index in its group; prompts are grouped when a chain of near
            duplicates joins them.
        duplicate: for each of N prompts the kept one it repeats, or None when it is kept itself. Kept prompts of one
            group do not repeat each other, but they should still be in one split.
    """

    group: tuple[int, ...]
    duplicate: tuple[Duplicate | None, ...]


@dataclass(frozen=True)
class Overlap:
    """A benchmark prompt that a training prompt repeats.

    Args:
        prompt: the benchmark prompt.
        similarity: Jaccard similarity in [0, 1]; 1 when the training prompt contains it completely.
    """

    prompt: str
    similarity: float


def words(prompt: str) -> list[str]:
    """Split a prompt into lower-case words without punctuation."""
    if prompt.isascii():  # the same in a third of the time: no other Unicode form, and no other apostrophes
        return _ASCII_WORD.findall(prompt.lower().replace("'", "").replace("`", ""))
    return _WORD.findall(unicodedata.normalize("NFKC", prompt).casefold().translate(_APOSTROPHES))


def shingles(prompt: str) -> frozenset[str]:
    """Return the set of a prompt's words and letter triples; empty when it has no letters or digits."""
    return frozenset(chain.from_iterable(map(unit_shingles, units(words(prompt)))))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return |A and B| / |A or B| of two sets, 0 when both are empty."""
    common = len(first & second)
    union = len(first) + len(second) - common
    return common / union if union else 0.0


def find_duplicates(prompts: Sequence[str], threshold: float) -> DuplicateReport:
    """Find prompts that repeat an earlier one.

    Args:
        prompts: N prompts, the ones to prefer first.
        threshold: similarity in (0, 1] from which two prompts are near duplicates.

    Returns:
        Group and kept representative of every prompt. A prompt is kept unless a prompt kept before it has the same
        wording or is at least `threshold` similar; no two kept prompts are near duplicates.
    """
    first_of: dict[str, int] = {}
    leader = [first_of.setdefault(_wording(prompt), index) for index, prompt in enumerate(prompts)]
    distinct = list(first_of.values())  # in order
    texts = [prompts[index] for index in distinct]
    neighbours: dict[int, list[tuple[int, float]]] = defaultdict(list)
    union = UnionFind(len(prompts))
    sketches = _sketch(first_of, threshold, permutations_for(len(texts)))
    for a, b, similarity in _scored(pairs_within(sketches, threshold), texts, texts, threshold):
        neighbours[distinct[b]].append((distinct[a], similarity))
        union.join(distinct[a], distinct[b])
    duplicate: list[Duplicate | None] = []
    for index, first in enumerate(leader):
        if first != index:
            union.join(first, index)
            kept = duplicate[first]
            duplicate.append(Duplicate(kept.of, kept.similarity, False) if kept else Duplicate(first, 1.0, True))
            continue
        near = neighbours.get(index, ())
        rivals = [(similarity, -other) for other, similarity in near if duplicate[other] is None]
        similarity, other = max(rivals, default=(0.0, 0))
        duplicate.append(Duplicate(-other, similarity, False) if rivals else None)
    return DuplicateReport(tuple(union.root(index) for index in range(len(prompts))), tuple(duplicate))


def decontaminate(prompts: Sequence[str], benchmark_prompts: Iterable[str], threshold: float) -> list[Overlap | None]:
    """Find the prompts that repeat a benchmark prompt.

    Args:
        prompts: N prompts meant for training.
        benchmark_prompts: prompts a policy will be measured on.
        threshold: similarity in (0, 1] from which two prompts count as one.

    Returns:
        For each prompt the most similar benchmark prompt it repeats, or None. A prompt also repeats a benchmark prompt
        of at least six words that it contains completely, whatever text is around it.
    """
    return list(_overlaps(tuple(prompts), tuple(sorted(set(benchmark_prompts))), threshold))


@functools.lru_cache(maxsize=4)  # a stage compares what its version was just made from
def _overlaps(prompts: tuple[str, ...], benchmark: tuple[str, ...], threshold: float) -> tuple[Overlap | None, ...]:
    """Do the work of `decontaminate`, for benchmark prompts that are sorted and all different."""
    first_of: dict[str, int] = {}
    leader = [first_of.setdefault(_wording(prompt), index) for index, prompt in enumerate(prompts)]
    distinct = list(first_of.values())  # in order
    best: dict[int, Overlap] = {}
    texts = [prompts[index] for index in distinct]
    known = _benchmark_sketches(benchmark, threshold)
    pairs = pairs_between(_sketch(first_of, threshold, permutations_for(0)), known, threshold)
    for a, b, similarity in _scored(pairs, texts, benchmark, threshold):
        index = distinct[a]
        if index not in best or similarity > best[index].similarity:
            best[index] = Overlap(benchmark[b], similarity)
    openings = _openings(benchmark)
    equal = {_wording(prompt): prompt for prompt in benchmark if words(prompt)}
    for wording, index in first_of.items():
        contained = equal.get(wording) or _contained(wording.split(" "), openings)
        if contained is not None:
            best[index] = Overlap(contained, 1.0)
    return tuple(best.get(index) for index in leader)


def _wording(prompt: str) -> str:
    """Return a key that equal wordings share; prompts without any word are equal only when the texts are."""
    return " ".join(words(prompt)) or f"\n{prompt}"


def _openings(benchmark: Iterable[str]) -> dict[tuple[str, str], list[tuple[list[str], str]]]:
    """Return words and text of the benchmark prompts that are long enough, by their first two words."""
    found: dict[tuple[str, str], list[tuple[list[str], str]]] = defaultdict(list)
    for prompt in benchmark:
        split = words(prompt)
        if len(split) >= _CONTAINED_WORDS:
            found[split[0], split[1]].append((split, prompt))
    return found


def _contained(split: list[str], openings: dict[tuple[str, str], list[tuple[list[str], str]]]) -> str | None:
    """Return the prompt that stands first in a text, of those that stand there the first one."""
    for start, opening in enumerate(pairwise(split)):
        for wanted, prompt in openings.get(opening, ()):
            if split[start : start + len(wanted)] == wanted:
                return prompt
    return None


@functools.lru_cache(maxsize=2)  # every data set is compared with the same suites
def _benchmark_sketches(benchmark: tuple[str, ...], threshold: float) -> Sketches:
    return _sketch(map(_wording, benchmark), threshold, permutations_for(0))


def _sketch(wordings: Iterable[str], threshold: float, permutations: int) -> Sketches:
    """Sketch prompts by what `_wording` returns; those without any word have an empty set."""
    texts = ["" if wording.startswith("\n") else wording for wording in wordings]
    return sketch(texts, threshold, permutations)


def _scored(
    pairs: Iterable[tuple[int, int]], first: Sequence[str], second: Sequence[str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield those of the pairs of prompts whose exact similarity reaches the threshold, with it."""
    of_first, of_second = (functools.lru_cache(maxsize=_SETS)(shingles) for _ in range(2))
    for a, b in pairs:
        similarity = jaccard(of_first(first[a]), of_second(second[b]))
        if similarity >= threshold:
            yield a, b, similarity


class UnionFind:
    """Join indices into groups; the root of a group is its smallest index."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, index: int) -> int:
        """Return the smallest index of a group."""
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        """Make one group of the groups of two indices."""
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low
