import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.hardness.equations import (
    Coefficients,
    alpha_data,
    alpha_model,
    combine,
    data_hardness,
    derange,
    filtered_gap,
    gap_mask,
    normalise,
    running_mean,
)


def s(x):
    return 1 / (1 + math.exp(-x))


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
    """Mean 3; squared deviations 9, 4, 1, 0, 36. 80 % of 5 is 4: tau is the fourth smallest, 9, and the gap 9 is masked out."""
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
def test_derange_moves_everyone(count, seed):
    source = derange(count, np.random.default_rng(seed))
    assert sorted(source.tolist()) == list(range(count))
    assert count < 2 or (source != np.arange(count)).all()


# A whole batch.

W = np.array([1.0, 0.6, 0.2, 0.4, 0.9, 0.9])
GAPS = np.array([1.0, 2.0, 0.0, 4.0, 7.0, -7.0])
CATEGORIES = ["insult", "insult", "insult", "insult", "helpful", "helpful"]
GROUPS = ["a", "a", "b", "b", "h", "h"]


def compute(config=None, seed=0, **extra):
    return Coefficients(config or HardnessConfig(), seed, **extra).compute(W, GAPS, CATEGORIES, GROUPS)


def test_a_batch_by_hand():
    """delta rows 0, .4, .8, .6; prompts a .2, b .7, mean .45. Gaps 1, 2, 0, 4: mean 1.75; 80 % of 4 keeps all: alphaM = 1.

    alpha before normalisation: s(.2)/s(.45) twice, s(.7)/s(.45) twice, 1, 1.
    """
    batch = compute()
    raw = np.array([s(0.2) / s(0.45)] * 2 + [s(0.7) / s(0.45)] * 2 + [1.0, 1.0])
    assert batch.alpha == pytest.approx(raw / raw.mean())
    assert batch.alpha_d == pytest.approx(raw)
    assert batch.alpha_m.tolist() == [1.0] * 6
    assert batch.delta == pytest.approx([0, 0.4, 0.8, 0.6, 0.1, 0.1])
    assert batch.stats["insult"]["kept"] == 1.0
    assert batch.stats["insult"]["mean_gap"] == 1.75
    assert set(batch.stats) == {"insult"}


def test_the_filter_in_a_batch_by_hand():
    """Squared deviations from 1.75: .5625, .0625, 3.0625, 5.0625. Half of 4 keeps 1 and 2: gapF 1.5, alphaM = s(1.5)/s(1.75)."""
    batch = compute(HardnessConfig(keep_quantile=0.5))
    assert batch.alpha_m == pytest.approx([s(1.5) / s(1.75)] * 4 + [1.0, 1.0])
    stats = batch.stats["insult"]
    assert (stats["filtered_gap"], stats["tau"], stats["kept"], stats["n"], stats["prompts"]) == (
        1.5,
        0.5625,
        0.5,
        4,
        2,
    )
    raw = batch.alpha_d * batch.alpha_m
    assert batch.alpha == pytest.approx(raw / raw.mean())


def test_granularity_completion_by_hand():
    """Each row's own delta 0, .4, .8, .6 around .45."""
    batch = compute(HardnessConfig(granularity="completion"))
    assert batch.alpha_d[:4] == pytest.approx([s(d) / s(0.45) for d in (0.0, 0.4, 0.8, 0.6)])


def test_categories_are_centred_apart():
    """Two prompts of two categories, one each: alphaD = alphaM = 1, so alpha = 1 everywhere."""
    batch = Coefficients(HardnessConfig(), 0).compute(
        np.array([0.1, 0.9]), np.array([5.0, -5.0]), ["x", "y"], ["a", "b"]
    )
    assert batch.alpha.tolist() == [1.0, 1.0]


def test_constants_centre_a_category_on_its_data_set():
    """One prompt, delta .8; mean .4 moves to .9 * .4 + .1 * .8 = .44 and alphaD = s(.8)/s(.44); next call .476."""
    coefficients = Coefficients(HardnessConfig(), 0, constants={"insult": {"mean_delta": 0.4, "mean_gap": 1.0}})
    one = (np.array([0.2]), np.array([1.0]), ["insult"], ["a"])
    assert coefficients.compute(*one).alpha_d == pytest.approx([s(0.8) / s(0.44)])
    batch = coefficients.compute(*one)
    assert batch.alpha_d == pytest.approx([s(0.8) / s(0.476)])
    assert batch.stats["insult"]["centre_delta"] == pytest.approx(0.476)


def test_ema_compares_with_the_running_mean_and_then_moves_it():
    """First batch: mean gap 1 starts R, alphaM = 1. Second: gap 3, alphaM = s(3)/s(1), R = .9 + .3 = 1.2. Third: s(3)/s(1.2)."""
    coefficients = Coefficients(HardnessConfig(responsiveness="ema", combine="model"), 0)

    def alpha_m(gap):
        return coefficients.compute(np.array([0.5]), np.array([gap]), ["insult"], ["a"]).alpha_m[0]

    assert alpha_m(1.0) == 1.0
    assert alpha_m(3.0) == pytest.approx(s(3) / s(1))
    assert alpha_m(3.0) == pytest.approx(s(3) / s(1.2))


def test_ema_may_start_from_the_stored_mean():
    """R = 0 stored: alphaM = s(2) / s(0)."""
    coefficients = Coefficients(
        HardnessConfig(responsiveness="ema"), 0, constants={"insult": {"mean_delta": 0.4, "mean_gap": 0.0}}
    )
    assert coefficients.compute(np.array([0.5]), np.array([2.0]), ["insult"], ["a"]).alpha_m == pytest.approx(
        [s(2) / 0.5]
    )


def test_none_is_exactly_one():
    assert compute(HardnessConfig(combine="none", sharpness=3.0)).alpha.tolist() == [1.0] * 6


def test_once_uses_the_stored_table():
    """Stored .5 and 1.5, helpful 1: mean 1, so alpha is the table itself."""
    batch = compute(HardnessConfig(refresh="once"), stored={"a": 0.5, "b": 1.5})
    assert batch.alpha == pytest.approx([0.5, 0.5, 1.5, 1.5, 1.0, 1.0])
    with pytest.raises(DataError, match="no stored alpha for 1 prompts, such as b"):
        compute(HardnessConfig(refresh="once"), stored={"a": 0.5})
    with pytest.raises(DataError, match="needs the stored alphas"):
        Coefficients(HardnessConfig(refresh="once"), 0)


def test_shuffled_gives_the_same_alphas_to_the_wrong_prompts():
    """Two harm prompts swap; helpful rows keep theirs."""
    true, placebo = compute(), compute(HardnessConfig(combine="shuffled"))
    assert placebo.alpha[[0, 1]] == pytest.approx(true.alpha[[2, 3]])
    assert placebo.alpha[[2, 3]] == pytest.approx(true.alpha[[0, 1]])
    assert placebo.alpha[4:] == pytest.approx(true.alpha[4:])


def test_shuffling_is_seeded_and_differs_between_calls():
    many = 12
    batch = (np.linspace(0, 1, many), np.zeros(many), ["insult"] * many, [str(i) for i in range(many)])
    first, second = (Coefficients(HardnessConfig(combine="shuffled"), 1) for _ in range(2))
    a, b = first.compute(*batch).alpha, first.compute(*batch).alpha
    assert a.tolist() == second.compute(*batch).alpha.tolist()
    assert a.tolist() != b.tolist()
    assert a.tolist() != Coefficients(HardnessConfig(combine="shuffled"), 2).compute(*batch).alpha.tolist()
    assert sorted(a.tolist()) == pytest.approx(sorted(b.tolist()))


def test_a_fixed_tau_that_keeps_nothing_warns_and_uses_the_mean(caplog):
    with caplog.at_level(logging.WARNING):
        batch = compute(HardnessConfig(tau=0.0))
    assert "keeps none of 4 gaps" in caplog.text
    assert batch.alpha_m.tolist() == [1.0] * 6
    assert batch.stats["insult"]["kept"] == 0.0


def test_state_survives_as_json():
    """A resumed object goes on exactly as the uninterrupted one."""
    config = HardnessConfig(responsiveness="ema", combine="shuffled")
    constants = {"insult": {"mean_delta": 0.3, "mean_gap": 0.5}}
    whole, broken = Coefficients(config, 3, constants=constants), Coefficients(config, 3, constants=constants)
    for one in (whole, broken):
        one.compute(W, GAPS, CATEGORIES, GROUPS)
    resumed = Coefficients(config, 3, constants=constants)
    resumed.load_state_dict(json.loads(json.dumps(broken.state_dict())))
    assert (
        resumed.compute(W, GAPS, CATEGORIES, GROUPS).alpha.tolist()
        == whole.compute(W, GAPS, CATEGORIES, GROUPS).alpha.tolist()
    )
    assert resumed.state_dict() == whole.state_dict()
    assert whole.state_dict()["calls"] == 2


def test_wrong_input_is_refused():
    coefficients = Coefficients(HardnessConfig(), 0)
    with pytest.raises(DataError, match="one of each a row"):
        coefficients.compute(W[:2], GAPS, CATEGORIES, GROUPS)
    with pytest.raises(DataError, match="at least one row"):
        coefficients.compute(np.array([]), np.array([]), [], [])
    bad = GAPS.copy()
    bad[1] = math.nan
    with pytest.raises(TrainingError, match=r"reward gap of row 1 \(insult\) is nan"):
        coefficients.compute(W, bad, CATEGORIES, GROUPS)
    bad[1], bad[4] = 0.0, math.nan  # helpful rows' gaps are not read
    assert np.isfinite(coefficients.compute(W, bad, CATEGORIES, GROUPS).alpha).all()


# Properties.

batches = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-1, 1), min_size=n, max_size=n),
        st.lists(st.floats(-40, 40), min_size=n, max_size=n),
        st.lists(st.sampled_from(["x", "y", "helpful"]), min_size=n, max_size=n),
        st.lists(st.sampled_from("pqrs"), min_size=n, max_size=n),
    )
)
configs = st.builds(
    HardnessConfig,
    combine=st.sampled_from(["product", "sum", "data", "model", "none", "shuffled"]),
    responsiveness=st.sampled_from(["filtered", "ema"]),
    granularity=st.sampled_from(["prompt", "completion"]),
    keep_quantile=st.floats(0.05, 1),
    sharpness=st.floats(1, 4),
)


@given(batches, configs)
def test_alpha_is_finite_not_negative_and_has_mean_1(batch, config):
    result = Coefficients(config, 0).compute(np.array(batch[0]), np.array(batch[1]), batch[2], batch[3])
    assert np.isfinite(result.alpha).all()
    assert (result.alpha >= 0).all()
    assert result.alpha.mean() == pytest.approx(1.0)
    assert (result.alpha_d > 0).all() and (result.alpha_m > 0).all()


@given(
    batches,
    st.sampled_from(["product", "sum", "data", "model"]),
    st.sampled_from(["prompt", "completion"]),
    st.randoms(use_true_random=False),
)
def test_alpha_goes_with_its_row(batch, mode, granularity, chance):
    config = HardnessConfig(combine=mode, granularity=granularity)
    order = list(range(len(batch[0])))
    chance.shuffle(order)
    plain = Coefficients(config, 0).compute(np.array(batch[0]), np.array(batch[1]), batch[2], batch[3])
    moved = Coefficients(config, 0).compute(
        np.array(batch[0])[order], np.array(batch[1])[order], [batch[2][i] for i in order], [batch[3][i] for i in order]
    )
    assert moved.alpha == pytest.approx(plain.alpha[order], rel=1e-6)


@given(st.lists(st.floats(0, 2), min_size=2, max_size=10), st.floats(0, 2))
def test_alpha_data_grows_with_delta_and_stays_mild(deltas, mean):
    values = alpha_data(np.array(sorted(deltas)), mean)
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0.5 / s(2) - 1e-12 and values.max() <= s(2) / 0.5 + 1e-12


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0.01, 1))
def test_the_quantile_keeps_its_share_and_the_middle(gaps, share):
    values = np.array(gaps)
    kept, _ = gap_mask(values, share)
    assert kept.sum() >= share * len(values) - 1e-6
    filtered = filtered_gap(values, kept)
    assert values.min() - 1e-6 <= filtered <= values.max() + 1e-6
