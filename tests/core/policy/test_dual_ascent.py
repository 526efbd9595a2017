"""The weight of harmless rows follows the refused share of look-alikes; numbers worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from drirl_core.policy.dual_ascent import OverRefusalBound

KINDS = ["unsafe", "unsafe", "look_alike", "general"]


def test_weights_by_hand() -> None:
    """All look-alikes refused, bound .15, step 1: log lambda .85; weights 1, 1, e^.85, e^.85 over their mean."""
    bound = OverRefusalBound(0.15, 1.0)
    weights = bound.weights(KINDS, [True, False, True, False])
    factor = math.exp(0.85)
    np.testing.assert_allclose(weights, np.array([1, 1, factor, factor]) / ((2 + 2 * factor) / 4))
    assert weights.mean() == pytest.approx(1.0)


def test_the_weight_falls_below_the_bound_and_stops_at_its_limit() -> None:
    bound = OverRefusalBound(0.5, 1.0)
    bound.weights(KINDS, [True, True, False, True])
    assert bound.log_multiplier == pytest.approx(-0.5)  # only the look-alike counts
    for _ in range(9):
        bound.weights(KINDS, [False] * 4)
    assert bound.log_multiplier == -2.0


def test_a_step_without_look_alikes_keeps_the_multiplier() -> None:
    bound = OverRefusalBound(0.5, 1.0)
    bound.weights(KINDS, [False, False, True, False])
    before = bound.log_multiplier
    weights = bound.weights(["unsafe", "general"], [True, True])
    assert bound.log_multiplier == before == pytest.approx(0.5)
    assert weights[1] / weights[0] == pytest.approx(math.exp(0.5))


def test_the_state_is_restored_from_json() -> None:
    first, second = OverRefusalBound(0.1, 0.3), OverRefusalBound(0.1, 0.3)
    first.weights(KINDS, [True] * 4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert first.weights(KINDS, [False] * 4).tolist() == second.weights(KINDS, [False] * 4).tolist()
