"""Sketches: no similar pair is missed at any number of hash functions, and sets are counted as they are."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import drirl_core
from drirl_core.prompts.duplicates import jaccard, shingles, words
from drirl_core.prompts.sketches import (
    pairs_between,
    pairs_within,
    permutations_for,
    rows_per_band,
    sketch,
    unit_shingles,
    units,
)

DATA = Path(drirl_core.__file__).parent / "data"
WORDS = ["how", "do", "i", "a", "steal", "bank", "car", "\u600e", "\u043a\u0430\u043a", "x", "please", "caf\u00e9"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def _shipped(count: int) -> list[str]:
    lines = (DATA / "unsafe_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    found = [" ".join(words(json.loads(line)["prompt"])) for line in lines]
    return [text for text in found if text][:count]


def test_units_of_two_words_by_hand() -> None:
    """'ab c' has the triples _ab ab_ b_c _c_: those of each word in blanks, and the one around the blank."""
    assert units(["ab", "c"]) == ["ab", "c", "b c"]
    assert [unit_shingles(unit) for unit in units(["ab", "c"])] == [("=ab", " ab", "ab "), ("=c", " c "), ("b c",)]


def test_bands_are_as_long_as_the_threshold_allows() -> None:
    """0.65^4 = 0.1785: 64 bands miss (1 - 0.1785)^64 = 3.4e-6; with 5 rows 51 bands would miss 1.9e-3."""
    assert (permutations_for(20_000), permutations_for(20_001)) == (256, 768)
    assert rows_per_band(0.65, 256) == 4
    assert rows_per_band(0.65, 768) == 6
    assert rows_per_band(0.05, 256) == 1


@pytest.mark.parametrize("permutations", [256, 768])
def test_sets_are_counted_and_every_similar_pair_is_proposed(permutations: int) -> None:
    texts = [*_shipped(300), "", *(f"{text} now" for text in _shipped(40))]
    sets = [shingles(text) for text in texts]
    sketches = sketch(texts, 0.65, permutations)
    assert sketches.sizes.tolist() == [len(one) for one in sets]
    proposed = list(pairs_within(sketches, 0.65))
    similar = [(a, b) for a, b in combinations(range(len(texts)), 2) if jaccard(sets[a], sets[b]) >= 0.65]
    assert len(similar) >= 40
    assert set(similar) <= set(proposed)
    assert proposed == sorted(set(proposed))
    assert len(proposed) <= len(similar) + 20  # the bitmaps leave little to compare


@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(SENTENCES, max_size=8), second=st.lists(SENTENCES, max_size=8), threshold=st.sampled_from([0.3, 0.8])
)
def test_two_collections_are_compared_as_one_by_one(first: list[str], second: list[str], threshold: float) -> None:
    pairs = set(pairs_between(sketch(first, threshold, 256), sketch(second, threshold, 256), threshold))
    for a, one in enumerate(first):
        for b, other in enumerate(second):
            if one and jaccard(shingles(one), shingles(other)) >= threshold:
                assert (a, b) in pairs


def test_sketches_depend_on_the_texts_alone() -> None:
    texts = _shipped(50)
    whole, part = sketch(texts, 0.65, 256), sketch(texts[20:], 0.65, 256)
    assert np.array_equal(whole.bands[:, 20:], part.bands)
    assert np.array_equal(whole.bits[20:], part.bits)
