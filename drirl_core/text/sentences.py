"""Cut texts into sub-sentences, which hardness compares pairwise, and into clauses, which reward heads weigh."""

from __future__ import annotations

import functools
import re
from typing import Any

LONG_SENTENCE = 20
"""Sentences with more words are cut at clause punctuation."""
SHORTEST_CLAUSE = 4
"""A clause is not cut shorter than this many words: fragments such as 'Sorry,' match anything."""

_CLAUSE_END = re.compile(r"(?<=[,;:，；：、])\s*(?=\S)|\s+[–—-]\s+")
_CONJUNCTION = re.compile(r"\s+(?=(?:so|because|but|and|or|though|yet) )", re.IGNORECASE)
_HAS_WORD = re.compile(r"[^\W_]")


def segment(text: str) -> list[str]:
    """Cut a text into sub-sentences.

    A sentence segmenter that knows abbreviations finds the sentences. A sentence of more than `LONG_SENTENCE` words is
    cut further at commas, semicolons, colons and dashes, into clauses of at least `SHORTEST_CLAUSE` words.

    Args:
        text: any text.

    Returns:
        Sub-sentences in order, stripped, each with a letter or digit where the text has one. Never an empty list: a
        text without words is returned as one piece, stripped.
    """
    return [clause for sentence in sentences(text) for clause in _clauses(sentence)]


def sentences(text: str) -> list[str]:
    """Cut a text into sentences; never an empty list (see `segment`)."""
    stripped = text.strip()
    if not _HAS_WORD.search(stripped):
        return [stripped]
    found = [part.strip() for part in _segmenter().segment(stripped)]
    return [part for part in found if _HAS_WORD.search(part)] or [stripped]


def clauses(text: str) -> list[str]:
    """Cut a text at every clause: a refusal is often half a sentence.

    Args:
        text: any text.

    Returns:
        Pieces in order, cut at the ends of sentences, at clause punctuation and before conjunctions. A piece of one
        word is joined with the piece that follows. Never an empty list: a text without words is returned as one piece,
        stripped.
    """
    pieces = [
        piece.strip()
        for sentence in sentences(text)
        for part in _CLAUSE_END.split(sentence)
        if part
        for piece in _CONJUNCTION.split(part)
    ]
    joined: list[str] = []
    carried = ""
    for piece in pieces:
        carried = f"{carried} {piece}".strip()
        if len(carried.split()) > 1:
            joined.append(carried)
            carried = ""
    if carried and joined:
        joined[-1] = f"{joined[-1]} {carried}"
    return joined or [text.strip()]


@functools.lru_cache(maxsize=1)
def _segmenter() -> Any:
    import pysbd

    return pysbd.Segmenter(language="en", clean=False)


def _clauses(sentence: str) -> list[str]:
    if len(sentence.split()) <= LONG_SENTENCE:
        return [sentence]
    clauses: list[str] = []
    for piece in (part.strip() for part in _CLAUSE_END.split(sentence) if part and part.strip()):
        if clauses and len(clauses[-1].split()) < SHORTEST_CLAUSE:
            clauses[-1] = f"{clauses[-1]} {piece}"
        else:
            clauses.append(piece)
    if len(clauses) > 1 and len(clauses[-1].split()) < SHORTEST_CLAUSE:
        last = clauses.pop()
        clauses[-1] = f"{clauses[-1]} {last}"
    return clauses
