"""Similarity W of completions to their demonstrations, by the sub-sentences of both (METHOD section 4).

Shapes: B pairs of texts, A and C sub-sentences of the two texts of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.sentences import segment

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder


Direction = Literal["demonstration", "completion", "symmetric"]


def matrix_similarity(cosines: np.ndarray, direction: Direction) -> float:
    """Return W of one pair of texts from the cosines of their sub-sentences.

    Args:
        cosines: s_ab, demonstration's sub-sentences by completion's, (A, C), in [-1, 1].
        direction: `demonstration` is mean_a max_b (the paper): is everything the demonstration says said somewhere?
            `completion` is mean_b max_a: does the completion say nothing else? `symmetric` is their harmonic mean; where one
            of the two is not positive there is none, and the lower one is taken, which joins it without a step at 0.

    Returns:
        W in [-1, 1]; 1 for identical texts.
    """
    said, kept_to = float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean())
    if direction == "demonstration":
        return said
    if direction == "completion":
        return kept_to
    low = min(said, kept_to)
    return 2 * said * kept_to / (said + kept_to) if low > 0 else low


class SentenceSimilarity:
    """Compare answers by the cosines of their sub-sentences.

    Args:
        embedder: sentence encoder Phi.
        config: `similarity` and `direction` are read; the paper's without it.
    """

    def __init__(self, embedder: Embedder, config: HardnessConfig | None = None) -> None:
        self._embedder, self._config = embedder, config or HardnessConfig()

    def similarity(self, demonstrations: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return W of each pair; all sub-sentences are encoded in one batch.

        Args:
            demonstrations: B demonstrations; drafts are cut off.
            completions: B completions; drafts are cut off. One without words is similar to nothing: its W is 0.

        Returns:
            W in [-1, 1], float64, (B,); 1 for identical answers.

        Raises:
            DataError: the lengths differ or a demonstration has no words.
        """
        if len(demonstrations) != len(completions):
            raise DataError(
                f"{len(demonstrations)} demonstrations and {len(completions)} completions; give one of each a row"
            )
        experts = [self._parts(text) for text in demonstrations]
        others = [self._parts(text) for text in completions]
        if any(not parts for parts in experts):
            raise DataError(
                f"demonstration {next(i for i, parts in enumerate(experts) if not parts)} has no words; mend the data set"
            )
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
