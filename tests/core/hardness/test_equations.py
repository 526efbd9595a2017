"""The equations of hardness, each against sums by hand, and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.config import HardnessConfig
from drirl_core.errors import TrainingError
from drirl_core.hardness.equations import (
    alpha_data,
    alpha_model,
    category_coefficients,
    combine,
    data_hardness,
    derange,
    filtered_gap,
    gap_mask,
    matrix_similarity,
    normalise,
    running_mean,
)


def s(x):
    return 1 / (1 + math.exp(-x))


# W of a pair of texts.

S = np.array([[0.9, 0.1, 0.3], [0.2, 0.5, 0.4]])  # two sub-sentences of the demonstration, three of the completion


def test_direction_demonstration():
    """mean(max(.9, .1, .3), max(.2, .5, .4)) = (.9 + .5) / 2 = .7."""
    assert matrix_similarity(S, "demonstration") == pytest.approx(0.7)


def test_direction_completion():
    """mean(max(.9, .2), max(.1, .5), max(.3, .4)) = 1.8 / 3 = .6."""
    assert matrix_similarity(S, "completion") == pytest.approx(0.6)


def test_direction_symmetric():
    """2 * .7 * .6 / 1.3 = .646."""
    assert matrix_similarity(S, "symmetric") == pytest.approx(2 * 0.7 * 0.6 / 1.3)


def test_symmetric_has_no_step_where_a_direction_turns_negative():
    """The harmonic mean of x -> 0+ and .5 tends to 0, and below 0 the lower one is used."""
    assert matrix_similarity(np.array([[1e-9]]), "symmetric") == pytest.approx(0, abs=1e-8)
    assert matrix_similarity(np.array([[-0.2]]), "symmetric") == -0.2


# The equations, one by one.


def test_delta():
    """1 - 0.75, 1 - 1, 1 - (-0.5)."""
    assert data_hardness(np.array([0.75, 1.0, -0.5])).tolist() == [0.25, 0.0, 1.5]


def test_alpha_data():
    """delta = 0, ln 9, mean ln 3: 0.5 / 0.75 = 2/3 and 0.9 / 0.75 = 1.2."""
    assert alpha_data(np.array([0.0, math.log(9)])) == pytest.approx([2 / 3, 1.2])


def test_alpha_data_around_a_given_mean():
    """delta = ln 3 around mean 0: 0.75 / 0.5 = 1.5."""
    assert alpha_data(np.array([math.log(3)]), 0.0) == pytest.approx([1.5])


def test_gap_mask_by_quantile():
    """Mean 3; squared deviations 9, 4, 1, 0, 36. 80 % of 5 is 4: tau is the fourth smallest, 9, and the gap 9 is masked
    out.
    """
    kept, tau = gap_mask(np.array([0.0, 1, 2, 3, 9]), 0.8)
    assert tau == 9.0
    assert kept.tolist() == [True, True, True, True, False]


def test_gap_mask_keeps_at_least_the_share():
    """0.8 of 4 is 3.2, so four are kept; 0.5 of 4 is two: squared deviations 2.25, 0.25, 0.25, 2.25 around 1.5."""
    assert gap_mask(np.array([0.0, 1, 2, 3]), 0.8)[0].all()
    kept, tau = gap_mask(np.array([0.0, 1, 2, 3]), 0.5)
    assert (kept.tolist(), tau) == ([False, True, True, False], 0.25)


def test_two_gaps_are_equally_far_from_their_mean_and_stay_together():
    """0.1 and 0.3: their squared deviations differ in the last bit, which must not drop one."""
    assert gap_mask(np.array([0.1, 0.3]), 0.5)[0].all()


def test_gap_mask_with_fixed_tau():
    """Mean 3, squared deviations 9, 4, 1, 0, 36: tau 4 keeps 1, 2, 3."""
    kept, tau = gap_mask(np.array([0.0, 1, 2, 3, 9]), 0.8, tau=4.0)
    assert (kept.tolist(), tau) == ([False, True, True, True, False], 4.0)


def test_filtered_gap_divides_by_the_number_kept():
    """N = 5, T = 2 masked out: (1 + 2 + 3) / (5 - 2) = 2."""
    assert filtered_gap(np.array([0.0, 1, 2, 3, 9]), np.array([False, True, True, True, False])) == 2.0


def test_filtered_gap_refuses_when_everything_is_masked_out():
    """Gaps 0 and 2: both 1 away from their mean, tau 0.5 keeps none, N - T = 0."""
    gaps = np.array([0.0, 2.0])
    kept, _ = gap_mask(gaps, 0.8, tau=0.5)
    with pytest.raises(TrainingError, match=r"keeps none of 2 gaps .* is 1\); raise hardness.tau"):
        filtered_gap(gaps, kept)


def test_alpha_model():
    """gapF = ln 9, mean gap = ln 3: 0.9 / 0.75 = 1.2; one gap alone gives 1."""
    assert alpha_model(math.log(9), math.log(3)) == pytest.approx(1.2)
    assert alpha_model(0.7, 0.7) == 1.0


def test_running_mean():
    """0.9 * 1 + 0.1 * 2 = 1.1."""
    assert running_mean(1.0, 2.0, 0.9) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("product", [0.96, 1.44]),
        ("shuffled", [0.96, 1.44]),
        ("sum", [1.0, 1.2]),
        ("data", [0.8, 1.2]),
        ("model", [1.2, 1.2]),
        ("none", [1, 1]),
    ],
)
def test_combine(mode, expected):
    """alphaD = 0.8, 1.2; alphaM = 1.2. Sum: (0.8 + 1.2) / 2 = 1, (1.2 + 1.2) / 2 = 1.2."""
    assert combine(np.array([0.8, 1.2]), 1.2, mode) == pytest.approx(expected)


def test_sharpness():
    """(0.8 * 1.2)^2 = 0.9216."""
    assert combine(np.array([0.8]), 1.2, "product", sharpness=2.0) == pytest.approx([0.9216])


def test_normalise():
    """1, 3: mean 2, so 0.5 and 1.5."""
    assert normalise(np.array([1.0, 3.0])).tolist() == [0.5, 1.5]
    for bad in ([0.0, 0.0], [1.0, -1.0], [1.0, math.nan]):
        with pytest.raises(TrainingError, match="coefficients must be finite"):
            normalise(np.array(bad))


@given(st.integers(0, 20), st.integers(0, 5))
def test_derange_moves_every_place(count, seed):
    source = derange(count, np.random.default_rng(seed))
    assert sorted(source.tolist()) == list(range(count))
    assert count < 2 or (source != np.arange(count)).all()


# One category: the function that the hardness stage and the trainer share.

DELTA, CATEGORY_GAPS = np.array([0.2, 0.7]), np.array([1.0, 2.0, 0.0, 4.0])


def test_a_category_by_hand():
    """mean delta .45; mean gap 1.75, half of the four gaps kept are 1 and 2: gapF 1.5, tau .5625, alphaM
    s(1.5)/s(1.75).
    """
    found = category_coefficients(DELTA, CATEGORY_GAPS, HardnessConfig(keep_quantile=0.5))
    assert found.alpha_d == pytest.approx([s(0.2) / s(0.45), s(0.7) / s(0.45)])
    assert (found.kept.tolist(), found.tau) == ([True, True, False, False], 0.5625)
    assert (found.mean_gap, found.filtered_gap) == (1.75, 1.5)
    assert found.alpha_m == pytest.approx(s(1.5) / s(1.75))
    assert found.alpha == pytest.approx(found.alpha_d * s(1.5) / s(1.75))


def test_a_category_around_given_means():
    """mean delta .1 and mean gap 0 are given: alphaD s(delta)/s(.1), alphaM s(1.75)/s(0); its own mean gap stays 1.75.
    """
    config = HardnessConfig(keep_quantile=1.0, combine="sum", sharpness=2.0)
    found = category_coefficients(DELTA, CATEGORY_GAPS, config, mean_delta=0.1, mean_gap=0.0)
    assert found.alpha_d == pytest.approx([s(0.2) / s(0.1), s(0.7) / s(0.1)])
    assert found.alpha_m == pytest.approx(s(1.75) / 0.5)
    assert found.alpha == pytest.approx(((found.alpha_d + found.alpha_m) / 2) ** 2)
    assert found.mean_gap == 1.75


def test_a_category_whose_gaps_are_all_masked_out():
    """tau .05 keeps none (the nearest gap is .0625 away): an error, or the mean gap is used and alphaM is 1."""
    config = HardnessConfig(tau=0.05)
    with pytest.raises(TrainingError, match="keeps none of 4 gaps"):
        category_coefficients(DELTA, CATEGORY_GAPS, config)
    found = category_coefficients(DELTA, CATEGORY_GAPS, config, strict=False)
    assert (found.kept.any(), found.filtered_gap, found.alpha_m) == (False, 1.75, 1.0)
    assert found.alpha.tolist() == found.alpha_d.tolist()


# Properties.


@given(st.lists(st.floats(0, 2), min_size=2, max_size=10), st.floats(0, 2))
def test_alpha_data_grows_with_delta_and_is_bounded(deltas, mean):
    values = alpha_data(np.array(sorted(deltas)), mean)
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0.5 / s(2) - 1e-12 and values.max() <= s(2) / 0.5 + 1e-12


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0.01, 1))
def test_the_quantile_keeps_at_least_its_share_of_the_gaps(gaps, share):
    values = np.array(gaps)
    kept, _ = gap_mask(values, share)
    assert kept.sum() >= share * len(values) - 1e-6
    filtered = filtered_gap(values, kept)
    assert values.min() - 1e-6 <= filtered <= values.max() + 1e-6
