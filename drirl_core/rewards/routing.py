"""One callable for all categories: every row is scored by its own category's model, and by no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from drirl_core.errors import DataError, ModelError, nearest
from drirl_core.rewards.model import RewardModel, require_finite

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder
    from drirl_core.models.hidden_states import HiddenStates


class RewardRouter:
    """Route the rows of a mixed batch to the reward models of their categories.

    Args:
        models: reward model by category, at least one.
        embedder: sentence encoder for the models that read it, or None.
        hidden_states: of the frozen policy, for the models that read it, or None.

    Raises:
        DataError: there is no model, or one is given for another category than its own.
        ModelError: a model was learned on another encoder or policy, or what it reads was not given.
    """

    def __init__(
        self,
        models: Mapping[str, RewardModel],
        embedder: Embedder | None = None,
        hidden_states: HiddenStates | None = None,
    ) -> None:
        if not models:
            raise DataError("a reward router needs at least one reward model; materialize reward_model_<category>")
        sources = {"encoder": embedder, "policy": hidden_states}
        for category, model in models.items():
            if model.category != category:
                raise DataError(
                    f"the reward model given for {category!r} was learned for {model.category!r}; check the paths"
                )
            if sources[model.reads] is None:
                raise ModelError(f"the reward model of {category} reads the {model.reads}, which was not given")
            model.use(sources[model.reads])
        self._models, self._hidden_states = dict(models), hidden_states

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories it can score."""
        return tuple(self._models)

    @property
    def layer(self) -> int | None:
        """Number of the policy's layer that all models read; None where they read no layer, or not the same."""
        layers = {getattr(model, "layer", None) for model in self._models.values()}
        return next(iter(layers)) if len(layers) == 1 else None

    @property
    def reads(self) -> tuple[HiddenStates, int] | None:
        """The hidden states that all models read, and the number of the layer; None where there is not one layer."""
        layer, source = self.layer, self._hidden_states
        return None if layer is None or source is None else (source, layer)

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        """Return normalised rewards; the other rows of a batch change a value by rounding at most.

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
        values = np.zeros(len(categories))
        together: dict[tuple[Any, str], list[int]] = {}
        for row, category in enumerate(categories):
            model = self._models[category]
            together.setdefault((type(model), model.batch_key), []).append(row)
        for (backbone, _), rows in together.items():  # the models that are scored together
            names = [categories[row] for row in rows]
            models = {name: self._models[name] for name in dict.fromkeys(names)}
            users, texts = [prompts[row] for row in rows], [completions[row] for row in rows]
            values[rows] = backbone.routed(models, users, texts, names)
        require_finite(values, categories)
        return values
