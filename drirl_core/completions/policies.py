"""The policies whose completions are in a pool, and whose are likely to be right."""

from __future__ import annotations

from drirl_core import taxonomy

INITIAL, SFT_START = SAMPLED = ("base", "sft")
"""Policies whose completions were sampled; all other rows of a pool are made to contrast."""


def likely_right(category: str, own_answers: bool = False) -> tuple[str, ...]:
    """Return the policies whose samples are likely to be as right as the demonstrations of a category.

    The SFT start refuses unsafe prompts, as it was taught to; the initial model answers harmless ones, as it always
    did, and a start that learned these answers does so too. Set against a demonstration, such a sample teaches style.

    Args:
        category: of the prompts.
        own_answers: whether the start learned the initial model's own answers to harmless prompts.
    """
    if category != taxonomy.HELPFUL:
        return (SFT_START,)
    return (INITIAL, SFT_START) if own_answers else (INITIAL,)
