"""Similarity W of completions to their demonstrations, from the sub-sentences of both (docs/method.md, section 4).

Shapes: B pairs of texts, A and C sub-sentences of the two texts of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError
from drirl_core.hardness.equations import matrix_similarity
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.sentences import segment

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder


class SentenceSimilarity:
    """Compare answers by the cosines of their sub-sentences.

    Args:
        embedder: sentence encoder Phi.
        config: `similarity` and `direction` are used; the default is the paper's.
    """

    def __init__(self, embedder: Embedder, config: HardnessConfig | None = None) -> None:
        self._embedder, self._config = embedder, config or HardnessConfig()

    def similarity(self, demonstrations: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return W per pair; all sub-sentences are encoded in one batch.

        Args:
            demonstrations: B demonstrations; drafts are removed.
            completions: B completions; drafts are removed. A completion without words has W = 0.

        Returns:
            W in [-1, 1], float64, (B,); 1 for identical answers.

        Raises:
            DataError: the lengths differ or a demonstration has no words.
        """
        if len(demonstrations) != len(completions):
            raise DataError(
                f"{len(demonstrations)} demonstrations and {len(completions)} completions; give one of each per row"
            )
        experts = [self._parts(text) for text in demonstrations]
        others = [self._parts(text) for text in completions]
        silent = next((i for i, parts in enumerate(experts) if not parts), None)
        if silent is not None:
            raise DataError(f"demonstration {silent} has no words; fix the data set")
        texts = list(dict.fromkeys(part for parts in (*experts, *others) for part in parts))
        if not texts:
            return np.zeros(0)
        vectors = self._embedder.encode(texts).astype(np.float64)  # unit rows, (texts, D)
        place = {text: i for i, text in enumerate(texts)}
        values = np.zeros(len(experts))
        for row, (expert, other) in enumerate(zip(experts, others, strict=True)):
            if other:
                cosines = (
                    vectors[[place[part] for part in expert]] @ vectors[[place[part] for part in other]].T
                )  # (A, C)
                values[row] = matrix_similarity(cosines.clip(-1.0, 1.0), self._config.direction)
        return values

    def _parts(self, text: str) -> list[str]:
        answer = cut_draft(text)
        if not any(character.isalnum() for character in answer):
            return []
        return segment(answer) if self._config.similarity == "sub_sentence" else [answer]
