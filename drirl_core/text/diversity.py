"""How much texts differ from each other and repeat themselves, counted in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from drirl_core.text.words import ngrams, words


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of different n-grams among all n-grams of the texts (Li et al. 2016, distinct-n).

    It falls as texts get longer, so compare only completions with the same length limit.

    Args:
        texts: any number of texts.
        n: words per n-gram, at least 1.

    Returns:
        A share in [0, 1]; 0 when no text has `n` words.
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def unigram_entropy(texts: Sequence[str]) -> float:
    """Return the entropy of the words of all texts together, in bits: low when completions share their words.

    Args:
        texts: any number of texts.

    Returns:
        At least 0; 0 without words.
    """
    return _entropy([word for text in texts for word in words(text)])


def mean_reply_entropy(texts: Sequence[str]) -> float:
    """Return the mean over texts of the entropy of one text's words, in bits: low when texts repeat themselves.

    Args:
        texts: any number of texts.

    Returns:
        At least 0; 0 without texts.
    """
    return math.fsum(_entropy(words(text)) for text in texts) / len(texts) if texts else 0.0


def template_rate(texts: Sequence[str], opening: int = 5) -> float:
    """Return the share of texts whose first words occur, in a row, in another text.

    Args:
        texts: any number of texts.
        opening: number of words compared; of a shorter text all words are compared, and a text without words never
            counts.

    Returns:
        A share in [0, 1]; 0 without texts.
    """
    split = [words(text) for text in texts]
    holders = {
        n: Counter(gram for own in split for gram in set(ngrams(own, n)))
        for n in {min(opening, len(own)) for own in split}
        if n
    }
    shared = sum(1 for own in split if own and holders[min(opening, len(own))][tuple(own[:opening])] > 1)
    return shared / len(texts) if texts else 0.0


def _entropy(tokens: Sequence[str]) -> float:
    total = len(tokens)
    return abs(math.fsum(count / total * math.log2(count / total) for count in Counter(tokens).values()))
