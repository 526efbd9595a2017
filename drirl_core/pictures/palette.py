"""Colours of all pictures: one per policy wherever it is drawn, and a set for categories that resembles none of them.

The set is Paul Tol's "muted" with small changes for contrast; colour-blind readers can tell all colours apart. Pictures
in a file (PNG) take the light variant; the report's page follows the reader's light or dark mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One colour on light and on dark paper.

    Args:
        light: on white, as `#rrggbb`.
        dark: on black.
    """

    light: str
    dark: str


_INK = Colour("#1a1d21", "#e8eaed")

PALETTE: Mapping[str, Colour] = {
    "base": Colour("#7a828c", "#9aa3ad"),
    "sft": Colour("#d07c00", "#f0ad3c"),
    "dpo": Colour("#8458b3", "#b592e0"),
    "dpo_s": Colour("#5b3a8c", "#d0b8f0"),
    "irft": Colour("#9c2a2a", "#e88f8f"),
    "joint": Colour("#a3591f", "#e0975c"),
    "grpo": Colour("#00856a", "#3fbf9f"),
    "staged_competence": Colour("#4a5f78", "#a9bdd6"),
    "rloo": Colour("#6b7d00", "#b3c63f"),
    "rloo_s": Colour("#454f00", "#d6e68a"),
    "verifiable": Colour("#b8437a", "#e07fb0"),
    "propositions": Colour("#7d1f4c", "#f2b3cf"),
    "best_of_n": Colour("#8a5a00", "#ffd27a"),
    "dr_irl": Colour("#0072b2", "#4ba3dd"),
    "floor": _INK,
    "ceiling": _INK,
    "pale": Colour("#b9bec5", "#5f6872"),  # what others are compared with: before, perfect
    "accent": Colour("#2f6f73", "#6fc0c4"),  # a single row of numbers that belongs to no policy
    "demonstration": _INK,
    "k0": Colour("#332288", "#9d90e6"),
    "k1": Colour("#cc6677", "#e08a98"),
    "k2": Colour("#117733", "#4fb06c"),
    "k3": Colour("#aa4499", "#d07fc4"),
    "k4": Colour("#b08d1e", "#ddcc77"),
    "k5": Colour("#7a4b25", "#c2905f"),
    "k6": Colour("#2f9485", "#5cc4b3"),
    "k7": Colour("#7f7f1a", "#bcbc4e"),
}
"""Colours by key: policies and references by their name in results, then roles, then `k0` to `k7` for anything else."""

POLICIES = ("base", "sft", "dr_irl")
"""The three policies that every benchmark compares."""
_OTHERS = 8


def numbered(place: int) -> str:
    """Return the key of the colour for the `place`-th category; after eight they repeat."""
    return f"k{place % _OTHERS}"


def key_of(name: str, among: Sequence[str]) -> str:
    """Return the key of a policy's or a reference's colour: its own, or one by its place among the others.

    Args:
        name: as results name it.
        among: all names in the picture; those without a colour of their own are numbered in this order.
    """
    if name in PALETTE:
        return name
    others = [other for other in among if other not in PALETTE]
    return numbered(others.index(name) if name in others else 0)


def on_white(key: str) -> str:
    """Return a colour for a picture on white paper."""
    return PALETTE[key].light
