"""Refresh `epoch`: alpha comes from a table that each pass over a category's prompts computes for the next."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError
from drirl_core.hardness.coefficients import AlphaBatch, Coefficients
from drirl_core.hardness.equations import alpha_data, alpha_model, normalise

EPOCH = HardnessConfig(refresh="epoch", keep_quantile=1.0)
STORED = {"a": 0.5, "b": 1.5, "c": 1.0}


def _step(coefficients: Coefficients, rows: list[tuple[str, float, float]], category: str = "insult") -> AlphaBatch:
    groups, similarities, gaps = zip(*rows, strict=True)
    return coefficients.compute(np.array(similarities), np.array(gaps), [category] * len(rows), list(groups))


def _pass(coefficients: Coefficients, shift: float = 0.0) -> list[np.ndarray]:
    """Train on a and b (two completions each), then on c; tuples hold prompt, similarity and gap."""
    first = _step(coefficients, [("a", 0.9, 1.0), ("a", 0.7, 2.0), ("b", 0.2 + shift, 0.0), ("b", 0.2 + shift, 1.0)])
    second = _step(coefficients, [("c", 0.5, 3.0), ("c", 0.5, 4.0)])
    return [first.alpha, second.alpha]


def test_the_first_pass_uses_the_stored_table() -> None:
    """a 0.5 and b 1.5 have mean 1; c alone is 1."""
    first, second = _pass(Coefficients(EPOCH, 0, STORED))
    np.testing.assert_allclose(first, [0.5, 0.5, 1.5, 1.5])
    np.testing.assert_allclose(second, [1.0, 1.0])


def test_the_second_pass_uses_the_values_of_the_first() -> None:
    """Mean deltas of a, b, c: 0.2, 0.8, 0.5; all gaps are kept, so alphaM is 1. a and b: their alphas over their mean.
    """
    coefficients = Coefficients(EPOCH, 0, STORED)
    _pass(coefficients)
    expected = alpha_data(np.array([0.2, 0.8, 0.5]))
    first, _ = _pass(coefficients, shift=0.3)
    np.testing.assert_allclose(first, normalise(expected[[0, 0, 1, 1]]))
    third, _ = _pass(coefficients)  # computed by the second pass, in which b was nearer: delta 0.5
    np.testing.assert_allclose(third, normalise(alpha_data(np.array([0.2, 0.5, 0.5]))[[0, 0, 1, 1]]))


def test_the_table_is_constant_within_a_pass() -> None:
    """a is now much harder, which moves the mean of the next table, not of the one that b uses in the same pass."""
    coefficients = Coefficients(EPOCH, 0, STORED)
    _pass(coefficients)
    _step(coefficients, [("a", -0.9, 1.0)])
    alpha = coefficients.compute(np.array([0.5, 0.0]), np.array([1.0, 0.0]), ["insult", "helpful"], ["b", "h"]).alpha
    np.testing.assert_allclose(alpha, normalise(np.array([alpha_data(np.array([0.2, 0.8, 0.5]))[1], 1.0])))


def test_responsiveness_of_a_pass_is_taken_over_all_its_prompts() -> None:
    """Gaps 0, 0, 9 have mean 3; keeping two of three gaps masks 9 out, so gapF is 0 and alphaM = sigmoid(0) /
    sigmoid(3).
    """
    config = HardnessConfig(refresh="epoch", keep_quantile=0.6, combine="model")
    coefficients = Coefficients(config, 0, {**STORED, "z": 1.0})

    def both(gaps: list[float]) -> np.ndarray:
        categories = ["insult", "insult", "insult", "other"]
        return coefficients.compute(np.full(4, 0.5), np.array([*gaps, 1.0]), categories, ["a", "b", "c", "z"]).alpha

    both([0.0, 0.0, 9.0])
    expected = np.array([alpha_model(0.0, 3.0)] * 3 + [1.0])
    np.testing.assert_allclose(both([5.0, 5.0, 5.0]), normalise(expected))


def test_each_category_has_its_own_passes() -> None:
    coefficients = Coefficients(EPOCH, 0, {**STORED, "z": 2.0})
    _step(coefficients, [("a", 0.9, 1.0)])
    for _ in range(3):
        _step(coefficients, [("z", 0.9, 1.0)], category="other")  # three passes over the only prompt of `other`
    np.testing.assert_allclose(
        _step(coefficients, [("b", 0.9, 1.0), ("c", 0.9, 1.0)]).alpha, [1.2, 0.8]
    )  # 1.5 and 1 over their mean


def test_a_killed_run_continues_with_the_same_results() -> None:
    uninterrupted, interrupted = Coefficients(EPOCH, 0, STORED), Coefficients(EPOCH, 0, STORED)
    for coefficients in (uninterrupted, interrupted):
        _pass(coefficients)
        _step(coefficients, [("b", 0.1, 1.0)])
    resumed = Coefficients(EPOCH, 0, STORED)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    for _ in range(2):
        for left, right in zip(_pass(uninterrupted), _pass(resumed), strict=True):
            np.testing.assert_array_equal(left, right)
    assert resumed.state_dict() == uninterrupted.state_dict()


def test_it_needs_the_stored_table() -> None:
    with pytest.raises(DataError, match=r"hardness\.refresh is 'epoch', which needs the stored alphas"):
        Coefficients(EPOCH, 0)
    with pytest.raises(DataError, match="no stored alpha for 1 prompts, such as d"):
        _step(Coefficients(EPOCH, 0, STORED), [("d", 0.5, 1.0)])


@pytest.mark.parametrize("change", [{"combine": "none"}, {"refresh": "step"}])
def test_settings_that_need_no_stored_table(change: dict[str, Any]) -> None:
    config = HardnessConfig(**{"refresh": "epoch", **change})
    assert _step(Coefficients(config, 0), [("a", 0.5, 1.0), ("b", 0.5, 1.0)]).alpha.tolist() == [1.0, 1.0]
