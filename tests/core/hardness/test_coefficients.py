"""Coefficients of generation batches: each option of the settings against sums by hand."""

import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.hardness.coefficients import Coefficients
from drirl_core.hardness.equations import category_coefficients


def s(x):
    return 1 / (1 + math.exp(-x))


# A complete batch.

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
    """Squared deviations from 1.75: .5625, .0625, 3.0625, 5.0625. Half of 4 keeps 1 and 2: gapF 1.5, alphaM =
    s(1.5)/s(1.75).
    """
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


def test_a_batch_of_one_category_has_the_coefficients_of_the_hardness_table():
    """The table's prompts as one batch, one row per prompt: its alphas, divided by their mean."""
    config = HardnessConfig(keep_quantile=0.5, sharpness=2.0)
    table = category_coefficients(1 - W, GAPS, config).alpha
    batch = Coefficients(config, 0).compute(W, GAPS, ["insult"] * 6, list("abcdef"))
    assert batch.alpha.tolist() == (table / table.mean()).tolist()


def test_granularity_completion_by_hand():
    """Each row's own delta 0, .4, .8, .6 around .45."""
    batch = compute(HardnessConfig(granularity="completion"))
    assert batch.alpha_d[:4] == pytest.approx([s(d) / s(0.45) for d in (0.0, 0.4, 0.8, 0.6)])


def test_categories_are_centred_separately():
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


def test_ema_compares_with_the_running_mean_and_then_updates_it():
    """First batch: mean gap 1 starts R, alphaM = 1. Second: gap 3, alphaM = s(3)/s(1), R = .9 + .3 = 1.2. Third:
    s(3)/s(1.2).
    """
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
    """Two harm prompts swap their alphas; helpful rows keep theirs."""
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


def test_the_state_is_saved_and_restored_as_json():
    """A resumed object continues exactly as the uninterrupted one."""
    config = HardnessConfig(responsiveness="ema", combine="shuffled")
    constants = {"insult": {"mean_delta": 0.3, "mean_gap": 0.5}}
    uninterrupted, interrupted = (
        Coefficients(config, 3, constants=constants),
        Coefficients(config, 3, constants=constants),
    )
    for one in (uninterrupted, interrupted):
        one.compute(W, GAPS, CATEGORIES, GROUPS)
    resumed = Coefficients(config, 3, constants=constants)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    assert (
        resumed.compute(W, GAPS, CATEGORIES, GROUPS).alpha.tolist()
        == uninterrupted.compute(W, GAPS, CATEGORIES, GROUPS).alpha.tolist()
    )
    assert resumed.state_dict() == uninterrupted.state_dict()
    assert uninterrupted.state_dict()["calls"] == 2


def test_wrong_input_is_refused():
    coefficients = Coefficients(HardnessConfig(), 0)
    with pytest.raises(DataError, match="one of each per row"):
        coefficients.compute(W[:2], GAPS, CATEGORIES, GROUPS)
    with pytest.raises(DataError, match="at least one row"):
        coefficients.compute(np.array([]), np.array([]), [], [])
    bad = GAPS.copy()
    bad[1] = math.nan
    with pytest.raises(TrainingError, match=r"reward gap of row 1 \(insult\) is nan"):
        coefficients.compute(W, bad, CATEGORIES, GROUPS)
    bad[1], bad[4] = 0.0, math.nan  # gaps of helpful rows are not used
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
def test_alpha_does_not_depend_on_the_order_of_rows(batch, mode, granularity, shuffler):
    config = HardnessConfig(combine=mode, granularity=granularity)
    order = list(range(len(batch[0])))
    shuffler.shuffle(order)
    plain = Coefficients(config, 0).compute(np.array(batch[0]), np.array(batch[1]), batch[2], batch[3])
    moved = Coefficients(config, 0).compute(
        np.array(batch[0])[order], np.array(batch[1])[order], [batch[2][i] for i in order], [batch[3][i] for i in order]
    )
    assert moved.alpha == pytest.approx(plain.alpha[order], rel=1e-6)
