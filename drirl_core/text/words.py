"""Words and word n-grams, as the judge and the diversity measures count them."""

from __future__ import annotations

import re
from collections.abc import Sequence

APOSTROPHES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u00b4": "'", "`": "'", "\u201c": '"', "\u201d": '"'}
)
"""Typographic quotes to plain ones."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the lower-case words of a text; `don't` is one word, punctuation is none."""
    return _WORD.findall(text.translate(APOSTROPHES).lower())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of `n` words in order: max(0, len(tokens) - n + 1) of them."""
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))
