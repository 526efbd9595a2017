"""Diversity of texts by hand."""

from __future__ import annotations

import pytest

from drirl_core.text import diversity


def test_distinct_n_by_hand() -> None:
    """'a b a b' and 'a b': unigrams 2 of 6, bigrams ab ba ab ab 2 of 4; no text has seven words."""
    texts = ["a b a b", "A, b!"]
    assert diversity.distinct_n(texts, 1) == pytest.approx(2 / 6)
    assert diversity.distinct_n(texts, 2) == 0.5
    assert diversity.distinct_n(texts, 7) == 0
    assert diversity.distinct_n([], 1) == 0


def test_entropy_by_hand() -> None:
    """'a b' and 'a c': a 1/2, b 1/4, c 1/4, so 1/2 + 1/2 + 1/2 = 1.5 bits. 'a a' alone 0, 'a b' alone 1: mean 0.5."""
    assert diversity.unigram_entropy(["a b", "a c"]) == pytest.approx(1.5)
    assert diversity.mean_reply_entropy(["a a", "a b"]) == pytest.approx(0.5)
    assert (
        diversity.unigram_entropy([]) == diversity.mean_reply_entropy([]) == diversity.mean_reply_entropy(["..."]) == 0
    )


def test_template_rate_by_hand() -> None:
    """The first two share five words; the fourth holds the third's two words in a row; the fifth shares none, the last
    is empty: 3 of 6.
    """
    texts = [
        "I can not help you today, friend.",
        "I can not help you with this.",
        "Ask her.",
        "You could just ask her about it tomorrow.",
        "Paris is the capital of France.",
        "...",
    ]
    assert diversity.template_rate(texts) == 0.5
    assert diversity.template_rate([]) == 0
    assert diversity.template_rate(["same words"] * 3) == 1
