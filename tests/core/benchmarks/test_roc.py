"""ROC curves and their areas against counts done by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.benchmarks.roc import auc, auc_interval, compare_auc, curve, threshold_for
from drirl_core.errors import DataError

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def test_auc_by_hand() -> None:
    """Unsafe 3, 2, 1 against safe 2, 0: 3 wins twice, 2 ties and wins, 1 loses and wins: 2 + 1.5 + 1 of 6 pairs."""
    assert auc([3, 2, 1], [2, 0]) == pytest.approx(4.5 / 6)
    assert auc([1], [0]) == 1
    assert auc([0], [1]) == 0
    assert auc([7, 7], [7, 7, 7]) == 0.5


def test_curve_by_hand() -> None:
    """Thresholds 3, 2, 1, 0 refuse (0 of 2, 1 of 3), (1, 2), (1, 3), (2, 3)."""
    expected = [(0, 0), (0, 1 / 3), (0.5, 2 / 3), (0.5, 1), (1, 1)]
    assert np.array(curve([3, 2, 1], [2, 0])) == pytest.approx(np.array(expected))
    assert curve([1, 1], [1]) == [(0, 0), (1, 1)]


@given(SCORES, SCORES)
def test_auc_is_the_area_under_the_curve_and_counts_wins(unsafe: list[int], safe: list[int]) -> None:
    points = curve(unsafe, safe)
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(points))
    won = sum((u > s) + (u == s) / 2 for u in unsafe for s in safe) / (len(unsafe) * len(safe))
    assert auc(unsafe, safe) == pytest.approx(area)
    assert auc(unsafe, safe) == pytest.approx(won)
    assert auc(safe, unsafe) == pytest.approx(1 - won)
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(points))


@pytest.mark.parametrize("function", [auc, curve, lambda u, s: auc_interval((u, s), 100, 0)])
def test_one_class_alone_and_broken_scores_are_refused(function) -> None:
    with pytest.raises(DataError, match="needs scores of both kinds, and there is none of safe prompts"):
        function([1.0], [])
    with pytest.raises(DataError, match="there is none of unsafe prompts"):
        function([], [1.0])
    with pytest.raises(DataError, match="1 scores of unsafe prompts are not finite"):
        function([math.nan, 1.0], [1.0])


def test_interval_matches_the_known_error() -> None:
    """Without ties and with AUC 1/2, var = (1/4 + (n_u - 1 + n_s - 1) / 12) / (n_u n_s): for 60 and 60, 0.0528^2."""
    rng = np.random.default_rng(3)
    scores = rng.permutation(120)
    unsafe, safe = scores[:60], scores[60:]
    found = auc_interval((unsafe, safe), 4000, seed=0)
    assert found.value == auc(unsafe, safe)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(0.0528, abs=0.008)
    assert auc_interval((unsafe, safe), 400, seed=1) == auc_interval((unsafe, safe), 400, seed=1)


def test_interval_of_a_small_case_is_exact() -> None:
    """Unsafe 1, 1 and safe 0, 2: the AUC of a draw is the share of zeros drawn: 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    found = auc_interval(([1, 1], [0, 2]), 8000, seed=0, level=0.4)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    found = auc_interval(([1, 1], [0, 2]), 8000, seed=0, level=0.6)
    assert (found.low, found.high) == (0, 1)


def test_comparison_is_paired() -> None:
    """Scores with the same ranking differ by 0 in every draw; a perfect score beats an uninformative one by 1/2."""
    unsafe, safe = [3.0, 1.0, 2.0, 0.5], [0.0, 1.5, 2.5]
    same = compare_auc((unsafe, safe), ([2 * u for u in unsafe], [2 * s for s in safe]), 500, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = compare_auc(([1] * 4, [0] * 3), ([1] * 4, [1] * 3), 500, seed=0)
    assert (better.value, better.low, better.high) == (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match=r"scores of \(4, 3\) and \(4, 2\) prompts cannot be paired"):
        compare_auc((unsafe, safe), (unsafe, safe[:2]), 500, seed=0)


def test_threshold_by_hand() -> None:
    """Of ten safe scores 0 to 9 a share of 0.25 may be refused, two: 9 and 8 are above 7. A tie is never split."""
    assert threshold_for(range(10), 0.25) == 7
    assert threshold_for(range(10), 0) == 9
    assert threshold_for([1, 1, 1, 0], 0.5) == 1
    assert threshold_for([1, 2], 1) < -1e300


@given(SCORES, st.floats(0, 1))
def test_threshold_keeps_its_promise_and_is_the_lowest(safe: list[int], most: float) -> None:
    found = threshold_for(safe, most)
    assert sum(score > found for score in safe) <= most * len(safe) + 1e-6
    lower = [score for score in safe if score < found]
    if lower:
        assert sum(score > max(lower) for score in safe) > most * len(safe) - 1e-6
