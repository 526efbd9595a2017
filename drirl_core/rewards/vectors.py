"""What a reward head reads: embeddings of a prompt, of the complete answer and of each of its clauses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from drirl_core.text.sentences import clauses

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder
    from drirl_core.reporting import Reporter


def encode(
    embedder: Embedder, prompts: Sequence[str], answers: Sequence[str], reporter: Reporter | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Embed prompts and answers in one pass of the encoder.

    Args:
        embedder: sentence encoder of width D.
        prompts: N user messages.
        answers: M answers without drafts.
        reporter: gets progress.

    Returns:
        u, (N, D), and v, (M, 1 + S, D): row 0 of an answer is the complete text, the others are its clauses, at most S;
        rows beyond its last clause are zero, which no embedding is.
    """
    parts = [[answer, *clauses(answer)] for answer in answers]
    vectors = embedder.encode([*prompts, *(text for part in parts for text in part)], reporter)
    stacked = np.zeros((len(parts), max(map(len, parts), default=1), vectors.shape[1]), dtype=np.float32)
    start = len(prompts)
    for row, part in enumerate(parts):
        stacked[row, : len(part)] = vectors[start : start + len(part)]
        start += len(part)
    return vectors[: len(prompts)], stacked
