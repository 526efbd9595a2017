"""Groups whose rewards hardly differ, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies

from drirl_core.config import PolicyConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.spread import SHARE, has_spread
from drirl_core.policy.training import read_log


def test_groups_by_hand() -> None:
    """Deviations with G - 1 = 1 below the line: |0 - 2| / sqrt 2 = 1.414, 0.0707 and 0."""
    rewards = [0.0, 2.0, 1.0, 1.1, 5.0, 5.0]
    assert has_spread(rewards, 2, 0.1).tolist() == [True, True, False, False, False, False]
    assert has_spread(rewards, 2, 0.07).tolist() == [True, True, True, True, False, False]
    assert has_spread(rewards, 2, 1.5).tolist() == [False] * 6
    assert has_spread(rewards, 2, 0.0).all()


def test_a_deviation_at_the_bound_is_spread() -> None:
    """Of 1, 2, 3 the deviation is sqrt((1 + 0 + 1) / 2) = 1; with G below the line it would be 0.816."""
    assert has_spread([1.0, 2.0, 3.0], 3, 1.0).all()
    assert not has_spread([1.0, 2.0, 3.0], 3, 1.0001).any()


def test_half_a_group_is_refused() -> None:
    with pytest.raises(DataError, match="5 rewards do not divide into groups of 2"):
        has_spread([0.0] * 5, 2, 0.1)


@given(strategies.lists(strategies.floats(-100, 100), min_size=8, max_size=8), strategies.floats(0, 10))
def test_groups_do_not_depend_on_each_other(rewards: list[float], least: float) -> None:
    both = has_spread(rewards, 4, least)
    apart = [has_spread(part, 4, least) for part in (rewards[:4], rewards[4:])]
    assert (both == np.concatenate(apart)).all()
    assert all(len(set(part.tolist())) == 1 for part in apart)


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.min_spread is -0\.1; 0 \(off\)"):
        PolicyConfig(min_spread=-0.1)


@pytest.mark.usefixtures("no_curves")
def test_without_any_spread_nothing_is_learned_and_the_share_is_logged(contexts: Any) -> None:
    """A bound above every deviation: all advantages are 0, and without a KL term no gradient is left."""
    settings = {"policy.steps": 2, "policy.save_steps": 2, "policy.min_spread": 1e6, "policy.kl": 0.0}
    context = contexts.make("none", settings)
    shown = build_policy_checkpoint(context)
    log = read_log(context.out / "training_log.jsonl")
    assert [row[SHARE] for row in log] == [1.0, 1.0]
    assert [row["grad_norm"] for row in log] == [0.0, 0.0]
    assert all("frac_reward_zero_std" in row for row in log)
    assert shown["groups_below_min_spread"] == 1.0
    plain = contexts.make("off", {"policy.steps": 1, "policy.kl": 0.0})
    assert "groups_below_min_spread" not in build_policy_checkpoint(plain)
    (row,) = read_log(plain.out / "training_log.jsonl")
    assert SHARE not in row and row["grad_norm"] > 0
