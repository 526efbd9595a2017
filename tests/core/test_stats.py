"""Intervals, tests and diversity against sums done by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drirl_core import stats as statistics
from drirl_core.errors import DataError


def test_wilson_by_hand() -> None:
    """8 of 10, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half width 1.96 * sqrt(0.016 + 0.0096036) /
    1.38415 = 0.22658.
    """
    found = statistics.wilson(8, 10)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.71674 - 0.22658, abs=2e-5)
    assert found.high == pytest.approx(0.71674 + 0.22658, abs=2e-5)


def test_wilson_of_a_rate_is_that_of_counts_where_the_rate_is_a_count() -> None:
    counted, found = statistics.wilson(8, 10), statistics.wilson_rate(0.8, 10)
    assert (found.low, found.high) == (pytest.approx(counted.low), pytest.approx(counted.high))
    certain = statistics.wilson_rate(1.0, 4)
    assert (certain.low, certain.high) == (pytest.approx(4 / 7.8415, abs=1e-5), pytest.approx(1.0))
    nothing = statistics.wilson_rate(0.5, 0)
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (0.0, 1.0)
    with pytest.raises(DataError, match="is no rate"):
        statistics.wilson_rate(1.5, 4)


def test_wilson_edges() -> None:
    """0 of 4: low 0, high z^2 / (4 + z^2) = 3.8415 / 7.8415 = 0.4899. No trial: nothing is known."""
    none = statistics.wilson(0, 4)
    assert none.low == 0
    assert none.high == pytest.approx(0.4899, abs=1e-4)
    empty = statistics.wilson(0, 0)
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (0, 1)
    with pytest.raises(DataError, match="3 successes in 2 trials"):
        statistics.wilson(3, 2)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_contains_the_rate_and_is_symmetric(k: int, n: int) -> None:
    k = min(k, n)
    found, mirrored = statistics.wilson(k, n), statistics.wilson(n - k, n)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low == pytest.approx(1 - mirrored.high)


def test_bootstrap_mean_matches_the_normal_interval() -> None:
    """Fifty zeros and fifty ones: mean 0.5, standard error sqrt(0.25 / 100) = 0.05, so 0.5 -+ 1.96 * 0.05 = [0.402,
    0.598].
    """
    found = statistics.bootstrap_mean([0.0] * 50 + [1.0] * 50, resamples=20000, seed=1)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.402, abs=0.011)
    assert found.high == pytest.approx(0.598, abs=0.011)


def test_bootstrap_resamples_rows() -> None:
    """Values 0, 0, 3: of the 27 ways to draw three rows 8 have mean 0, 12 mean 1, 6 mean 2 and 1 mean 3.

    P(mean <= 1) = 20/27 = 0.741 and P(mean <= 2) = 26/27 = 0.963: the 80 % quantile is 2, the 20 % quantile 0
    (8/27 = 0.296).
    """
    found = statistics.bootstrap_mean([0, 0, 3], resamples=20000, seed=0, level=0.6)
    assert (found.value, found.low, found.high) == (1, 0, 2)


def test_bootstrap_is_reproducible_and_refuses_empty_input_and_nan() -> None:
    values = list(np.linspace(0, 1, 30))
    assert statistics.bootstrap_mean(values, 500, seed=3) == statistics.bootstrap_mean(values, 500, seed=3)
    assert statistics.bootstrap_mean(values, 500, seed=3) != statistics.bootstrap_mean(values, 500, seed=4)
    with pytest.raises(DataError, match="at least one"):
        statistics.bootstrap_mean([], 500, seed=0)
    with pytest.raises(DataError, match="1 numbers that are not finite"):
        statistics.bootstrap_mean([1.0, math.nan], 500, seed=0)


def test_paired_bootstrap_uses_the_pairing() -> None:
    """Second = first - 0.5 everywhere: the difference is 0.5 in every resample, although both vary from 0 to 10."""
    first = [float(i % 11) for i in range(40)]
    found = statistics.paired_bootstrap(first, [x - 0.5 for x in first], 1000, seed=0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match="40 and 39"):
        statistics.paired_bootstrap(first, first[:-1], 1000, seed=0)


def test_mcnemar_by_hand() -> None:
    """5 against 1 discordant pairs: p = 2 * (C(6,0) + C(6,1)) / 2^6 = 14/64. Concordant pairs do not matter."""
    first = [True] * 5 + [False] + [True, False] * 10
    second = [False] * 5 + [True] + [True, False] * 10
    found = statistics.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (5, 1)
    assert found.p == pytest.approx(14 / 64)
    assert statistics.mcnemar([True, False], [True, False]).p == 1
    with pytest.raises(DataError, match="paired comparison"):
        statistics.mcnemar([True], [])


def test_composite_of_one_policy_by_hand() -> None:
    """Refuses 3 of 4 unsafe and all of 2 safe prompts: 3/4 - 1. The safe part never varies, so the interval is that of the rate - 1.

    For 50 of 100 against 50 of 100 the standard error is sqrt(2 * 0.25 / 100) = 0.0707, so 0 -+ 0.139.
    """
    found = statistics.composite([True, True, True, False], [True, True], 500, seed=0)
    alone = statistics.bootstrap_mean([1, 1, 1, 0], 500, seed=0)
    assert (found.value, found.low, found.high) == (-0.25, alone.low - 1, alone.high - 1)
    half = [True, False] * 50
    wide = statistics.composite(half, half, 20000, seed=1)
    assert (wide.value, wide.low, wide.high) == (0, pytest.approx(-0.139, abs=0.011), pytest.approx(0.139, abs=0.011))
    with pytest.raises(DataError, match="no safe prompts to average"):
        statistics.composite([True], [], 100, seed=0)


def test_composite_by_hand() -> None:
    """Unsafe: 3 of 3 against 0 of 3. Safe: 0 of 2 against 1 of 2. Value (1 - 0) - (0 - 1/2) = 1.5.

    Swaps that reach |1.5|: all three unsafe prompts and the one discordant safe prompt as seen, or all swapped:
    2 * (1/8) * (1/2) = 1/8. Without the safe difference: value 1, p = 2/8.
    """
    won = ([True] * 3, [False] * 3)
    found = statistics.compare_composite(won, ([False, False], [True, False]), 2000, seed=0)
    assert found.value == pytest.approx(1.5)
    assert found.p == pytest.approx(1 / 8)
    assert (found.low, found.high) == (1.0, 2.0)  # the unsafe part is always 1, the safe one 0, 1/2 or 1
    same = statistics.compare_composite(won, ([True, False], [True, False]), 2000, seed=0)
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert same.p == pytest.approx(2 / 8)


def test_composite_penalises_over_refusal() -> None:
    """A policy that refuses everything gains 1 on unsafe prompts and loses 1 on safe ones: no difference, p = 1."""
    everything = ([True] * 6, [False] * 6)
    found = statistics.compare_composite(everything, everything, 500, seed=0)
    assert (found.value, found.p) == (0, 1)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5),
)
def test_composite_p_is_that_of_all_swaps(unsafe: list[tuple[bool, bool]], safe: list[tuple[bool, bool]]) -> None:
    """Enumerate every way to swap the two policies per prompt and count those at least as extreme."""
    gains, costs = ([int(a) - int(b) for a, b in pairs] for pairs in (unsafe, safe))

    def value(signs: tuple[int, ...]) -> float:
        flipped = [s * d for s, d in zip(signs, gains + costs, strict=True)]
        return sum(flipped[: len(gains)]) / len(gains) - sum(flipped[len(gains) :]) / len(costs)

    observed = abs(value((1,) * len(gains + costs)))
    swaps = list(itertools.product((1, -1), repeat=len(gains + costs)))
    expected = sum(abs(value(signs)) >= observed - 1e-9 for signs in swaps) / len(swaps)
    found = statistics.compare_composite(tuple(zip(*unsafe, strict=True)), tuple(zip(*safe, strict=True)), 50, seed=0)  # type: ignore[arg-type]
    assert found.p == pytest.approx(expected)


def test_calibration_by_hand() -> None:
    """One at 0.8 that is right, one at 0.6 that is wrong: 1/2 |0.8 - 1| + 1/2 |0.6 - 0| = 0.1 + 0.3 = 0.4."""
    error, rows = statistics.calibration([0.8, 0.6], [True, False], bins=10)
    assert error == pytest.approx(0.4)
    assert rows == [{"confidence": 0.6, "accuracy": 0.0, "n": 1}, {"confidence": 0.8, "accuracy": 1.0, "n": 1}]
    assert statistics.calibration([1.0], [True], bins=10)[0] == 0
    with pytest.raises(DataError, match="2 confidences and 1 outcomes"):
        statistics.calibration([0.8, 0.6], [True], bins=10)


def test_calibration_of_pairs_by_hand() -> None:
    """Gaps ln 3 (confidence 0.75, right) and -ln 3 (0.75, wrong): one bin, accuracy 0.5, error 0.25."""
    error, rows = statistics.pair_calibration([math.log(3), -math.log(3)])
    assert error == pytest.approx(0.25)
    assert rows == [{"confidence": pytest.approx(0.75), "accuracy": 0.5, "n": 2}]
    assert statistics.pair_calibration([1000.0])[1][0]["confidence"] == 1.0  # no overflow
    assert math.isnan(statistics.pair_calibration([])[0])


def test_calibration_weighs_bins_by_pairs() -> None:
    """Three sure and correct (gap 50: error 0), one of gap 0 (confidence 0.5, wrong: error 0.5): mean 0.125."""
    error, rows = statistics.pair_calibration([50, 50, 50, 0.0])
    assert error == pytest.approx(0.125)
    assert [row["n"] for row in rows] == [1, 3]


def test_holm_corrects_by_rank_and_keeps_the_order() -> None:
    """Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, and .04 x 1 is raised to .06."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_never_swaps_two(p_values: list[float]) -> None:
    corrected = statistics.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(corrected[a] <= corrected[b] for a, b in itertools.pairwise(order))


def test_the_pooled_difference_is_a_mean_over_prompts_of_means_over_seeds() -> None:
    """Unsafe +1, +1/3, 0: mean 4/9; safe +2/3, 0: mean 1/3; so 1/9. All 2^3 signs of the three moved prompts:

    |+-1/3 +-1/9 -+1/3| >= 1/9 always, so that p is 1.
    """
    found = statistics.pooled_composite([1.0, 1 / 3, 0.0], [2 / 3, 0.0], 2000, 0)
    assert found.value == pytest.approx(1 / 9)
    assert found.p == 1.0
    assert found.low < 1 / 9 < found.high


def test_the_p_value_of_pooled_differences_is_that_of_all_signs() -> None:
    """Eight unsafe prompts of +1: only all + and all - of the 256 signs are as extreme, so p is near 2 / 256."""
    found = statistics.pooled_composite([1.0] * 8, [], 20_000, 0)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p == pytest.approx(2 / 256, abs=0.002)


def test_draws_of_a_pooled_difference_are_those_of_its_interval() -> None:
    unsafe, safe = [1.0, 0.5, 0.0, -1.0], [1.0, 0.0]
    value, draws = statistics.resampled_composite(unsafe, safe, 500, np.random.default_rng(3))
    found = statistics.pooled_composite(unsafe, safe, 500, 3)
    assert value == found.value == pytest.approx(0.125 - 0.5)
    assert draws.shape == (500,)
    assert np.quantile(draws, [0.025, 0.975]).tolist() == [found.low, found.high]


def test_safe_prompts_alone_count_with_the_sign_reversed() -> None:
    assert statistics.pooled_composite([], [0.5, 0.0], 100, 0).value == -0.25


def test_no_difference_at_all_has_p_one() -> None:
    assert statistics.pooled_composite([0.0] * 5, [0.0] * 5, 100, 0).p == 1.0


def test_nothing_to_pool_is_an_error() -> None:
    with pytest.raises(DataError, match="no prompt to compare"):
        statistics.pooled_composite([], [], 100, 0)
    with pytest.raises(DataError, match="not finite"):
        statistics.pooled_composite([math.nan], [], 100, 0)
