"""Who answers the suites: names of policies in results, and the assets behind them."""

from __future__ import annotations

from drirl_core.config import BASELINES, BEST_OF_N, TRAINED

CHECKPOINTS = {**{name: f"{name}_checkpoint" for name in ("sft", *TRAINED)}, "dr_irl": "policy_checkpoint"}
"""Assets of the trained policies by their name in results."""
POLICIES = ("base", "sft", *BASELINES, "dr_irl")
"""Names of all policies in results, in the order of the tables."""
NO_WEIGHTS = f"{BEST_OF_N} has no weights of its own: it is the SFT start, of whose completions the rewards choose one"
"""Why it cannot stand where a checkpoint is needed; a message adds what can."""


def asset_of(policy: str, suite: str) -> str:
    """Return the asset that decides what a policy answers to a suite: its checkpoint, or the chosen completions.

    Args:
        policy: name in results, other than `base`.
        suite: name of the suite.
    """
    return f"{BEST_OF_N}_{suite}" if policy == BEST_OF_N else CHECKPOINTS.get(policy, f"{policy}_checkpoint")
