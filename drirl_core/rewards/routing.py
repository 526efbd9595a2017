"""One callable for all categories: every row is scored by its own category's model, and by no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from drirl_core.errors import DataError, nearest
from drirl_core.rewards.model import RewardModel, require_finite

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder


class RewardRouter:
    """Route the rows of a mixed batch to the reward models of their categories.

    Args:
        models: reward model by category, at least one.
        embedder: sentence encoder for the models that need one.

    Raises:
        DataError: there is no model, or one is filed under another category than its own.
        ModelError: a model was learned on another encoder.
    """

    def __init__(self, models: Mapping[str, RewardModel], embedder: Embedder) -> None:
        if not models:
            raise DataError("a reward router needs at least one reward model; materialize reward_model_<category>")
        for category, model in models.items():
            if model.category != category:
                raise DataError(
                    f"the reward model given for {category!r} was learned for {model.category!r}; check the paths"
                )
            model.use(embedder)
        self._models = dict(models)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories it can score."""
        return tuple(self._models)

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        """Return normalised rewards; rows beside it change a value by rounding at most.

        Args:
            prompts: B user messages.
            completions: B completions; drafts are cut off.
            categories: category of each row.

        Returns:
            float64, (B,).

        Raises:
            DataError: the lengths differ or a category has no model.
            TrainingError: a reward is not finite.
        """
        if not len(prompts) == len(completions) == len(categories):
            raise DataError(
                f"{len(prompts)} prompts, {len(completions)} completions and {len(categories)} categories; "
                "give as many of each"
            )
        unknown = sorted(set(categories) - set(self._models))
        if unknown:
            raise DataError(f"no reward model for the category {unknown[0]!r}; {nearest(unknown[0], self._models)}")
        values = np.zeros(len(prompts))
        by_backbone: dict[type, list[int]] = {}
        for row, category in enumerate(categories):
            by_backbone.setdefault(type(self._models[category]), []).append(row)
        for backbone, rows in by_backbone.items():
            names = [categories[row] for row in rows]
            models = {name: self._models[name] for name in dict.fromkeys(names)}
            values[rows] = backbone.routed(
                models, [prompts[row] for row in rows], [completions[row] for row in rows], names
            )  # type: ignore[attr-defined]
        require_finite(values, categories)
        return values
