"""The policies whose completions are in a pool, and whose are likely to be right."""

from __future__ import annotations

from drirl_core import taxonomy

INITIAL, SFT_START = SAMPLED = ("base", "sft")
"""Policies whose completions were sampled; all other rows of a pool are made to contrast."""


def likely_right(category: str) -> str:
    """Return the policy whose samples are likely to be as right as the demonstrations of a category.

    The SFT start refuses unsafe prompts, as it was taught to; the initial model answers harmless ones, as it always
    did. Set against a demonstration, such a sample teaches style.
    """
    return INITIAL if category == taxonomy.HELPFUL else SFT_START
