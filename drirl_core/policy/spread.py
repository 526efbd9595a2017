"""Groups whose rewards hardly differ: what GRPO would learn from them is the noise of the reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drirl_core.errors import DataError

SHARE = "frac_reward_below_min_spread"
"""Logged metric: share of the groups without spread, beside TRL's `frac_reward_zero_std`."""


def has_spread(rewards: Sequence[float] | np.ndarray, group: int, least: float) -> np.ndarray:
    """Say of each completion whether the rewards of its group differ enough to learn from.

    The standard deviation is TRL's, with G - 1 in the denominator: sqrt(sum_g (R_gi - mean_g R)^2 / (G - 1)).

    Args:
        rewards: of the completions of all processes, group by group, (B,).
        group: G, completions of a group, at least 2.
        least: the smallest standard deviation that counts as spread, at least 0; 0 keeps every group.

    Returns:
        bool, (B,), the same for all completions of a group.

    Raises:
        DataError: the rewards are no whole number of groups.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if len(values) % group:
        raise DataError(
            f"{len(values)} rewards do not divide into groups of {group} completions; a generation batch holds whole "
            "groups (policy.num_generations)"
        )
    deviations = values.reshape(-1, group).std(axis=1, ddof=1)  # (B / G,)
    return np.repeat(deviations >= least, group)
