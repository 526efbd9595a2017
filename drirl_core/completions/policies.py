"""The policies whose completions are in a pool, and whose are likely to be right."""

from __future__ import annotations

from drirl_core import taxonomy
from drirl_core.config import MOST_ROUNDS

INITIAL, SFT_START = "base", "sft"
ROUNDS = tuple(f"round_{number}" for number in range(1, MOST_ROUNDS))
"""Policies that the rewards of one round trained and that the next round learns from, in order; the last round's is
the final policy, of which there are no samples in a pool."""
SAMPLED = (INITIAL, SFT_START, *ROUNDS)
"""Policies whose completions were sampled; all other rows of a pool are made to contrast."""


def likely_right(category: str, own_answers: bool = False) -> tuple[str, ...]:
    """Return the policies whose samples are likely to be as right as the demonstrations of a category.

    The SFT start refuses unsafe prompts, as it was taught to; the initial model answers harmless ones, as it always
    did, and a start that learned these answers does so too. Set against a demonstration, such a sample teaches style.
    The policies of further rounds are not among them: what is wrong of their samples is what the next rewards have to
    learn, so that each is judged by itself (`drirl_core.rewards.pairs.without_likely_right`).

    Args:
        category: of the prompts.
        own_answers: whether the start learned the initial model's own answers to harmless prompts.
    """
    if category != taxonomy.HELPFUL:
        return (SFT_START,)
    return (INITIAL, SFT_START) if own_answers else (INITIAL,)
