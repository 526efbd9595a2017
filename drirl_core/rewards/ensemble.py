"""Several heads as one reward model: the mean of their rewards minus a multiple of how far they disagree.

What the heads agree on was learned from the data; where they disagree the policy would be rewarded for noise, which the
penalty takes away (Coste et al. 2024, arXiv 2310.02743, uncertainty-weighted optimisation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch

from drirl_core.rewards.model import (
    EMPTY_MARGIN,
    Normalisation,
    RewardModel,
    by_category,
    damage_reported,
    load_reward_model,
    mean_and_scale,
    require_finite_model,
    write_description,
)
from drirl_core.rewards.pairs import Pool
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.quality import has_words


class EnsembleRewardModel:
    """Combine the rewards of members, each of them normalised.

    r = (max(mean_j r_j - penalty std_j r_j, floor) - mean) / scale over members j. `floor` is what the combination
    gives to degenerate text, for which every member gives its worst reward: disagreement alone cannot put a completion
    below it. An empty completion is below the floor by the usual margin.

    Args:
        members: M reward models of one backbone and category, learned with different seeds, at least one.
        penalty: weight of the standard deviation over the members.
    """

    backbone: ClassVar[str] = "ensemble"

    def __init__(self, members: Sequence[RewardModel], penalty: float) -> None:
        self.members, self.penalty = tuple(members), penalty
        self.category = self.members[0].category
        self.reads: Literal["encoder", "policy"] = self.members[0].reads
        worst = [(m.normalisation.worst - m.normalisation.mean) / m.normalisation.scale for m in self.members]
        self.normalisation = Normalisation(worst=float(combined(np.array(worst)[:, None], penalty)[0]))

    @property
    def batch_key(self) -> str:
        """Ensembles with the same number of members are scored together when their members are."""
        return f"{len(self.members)} x {self.members[0].batch_key}"

    @property
    def layer(self) -> int | None:
        """Layer of the policy that the members read, or None."""
        return getattr(self.members[0], "layer", None)

    def settle(self, train: Pool) -> None:
        """Take mean and scale over the training pool.

        Raises:
            TrainingError: the rewards are constant.
        """
        inputs, users, answers = train.rows()
        mean, scale = mean_and_scale(self.rewards_of(*inputs, users, answers), self.category)
        self.normalisation = dataclasses.replace(self.normalisation, mean=mean, scale=scale)

    def use(self, source: Any) -> None:
        """Give the members what they read texts with; see `RewardModel`."""
        for member in self.members:
            member.use(source)

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards, float64, (B,); a draft before an answer is cut off."""
        return self.routed({self.category: self}, prompts, completions, [self.category] * len(prompts))

    @classmethod
    def routed(
        cls, models: Mapping[str, Self], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows, each by its own category's ensemble, float64, (B,).

        Args:
            models: ensembles of equally many members by category, one for each category in `categories`.
            prompts: B user messages.
            completions: B completions.
            categories: category of each row.
        """
        worded = np.array([has_words(cut_draft(completion)) for completion in completions], dtype=bool)
        first = next(iter(models.values())).members
        rewards = np.stack(
            [
                type(member).routed(
                    {name: model.members[j] for name, model in models.items()}, prompts, completions, categories
                )
                for j, member in enumerate(first)
            ]
        )  # (M, B): the members in turn, all categories at once
        return by_category(categories, lambda category, rows: models[category]._finish(rewards[:, rows], worded[rows]))

    def read_rows(self, *given: Any) -> tuple[np.ndarray, ...]:
        """Read rows as the members do; see `RewardModel`."""
        return self.members[0].read_rows(*given)

    def row_features(self, *inputs: Any) -> torch.Tensor:
        """Return what the first member's head reads of rows; see `RewardModel`."""
        return self.members[0].row_features(*inputs)

    def disagreement(self, *inputs: Any) -> np.ndarray:
        """Return the standard deviation over the members of the rewards of rows that are read already, (B,)."""
        return np.stack([member.rewards_of(*inputs) for member in self.members]).std(axis=0)

    def rewards_of(self, *inputs: Any) -> np.ndarray:
        """Return rewards of rows that are read already, float64, (B,); see `RewardModel`."""
        worded = np.array([has_words(answer) for answer in inputs[-1]], dtype=bool)
        return self._finish(np.stack([member.rewards_of(*inputs) for member in self.members]), worded)

    def _finish(self, rewards: np.ndarray, worded: np.ndarray) -> np.ndarray:
        """Combine the members' rewards, (M, B), and normalise; rows without words come below everything, (B,)."""
        known = self.normalisation
        values = (np.maximum(combined(rewards, self.penalty), known.worst) - known.mean) / known.scale
        return np.where(worded, values, (known.worst - known.mean) / known.scale - EMPTY_MARGIN)

    def save(self, folder: Path) -> None:
        """Write each member into a directory of its own, and how they are combined."""
        for number, member in enumerate(self.members):
            (folder / _place(number)).mkdir()
            member.save(folder / _place(number))
        fields = {"members": len(self.members), "penalty": self.penalty, "normalisation": asdict(self.normalisation)}
        write_description(folder, self.backbone, fields)

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; use `load_reward_model`, which finds the right class.

        Raises:
            ArtifactError: a file is damaged or does not fit the description.
        """
        with damage_reported(folder):
            count, penalty = int(description["members"]), float(description["penalty"])
            normalisation = Normalisation(**description["normalisation"])
            model = cls([load_reward_model(folder / _place(number)) for number in range(count)], penalty)
        require_finite_model(folder, {}, normalisation)
        model.normalisation = normalisation
        return model


def combined(rewards: np.ndarray, penalty: float) -> np.ndarray:
    """Return mean minus penalty times standard deviation over the members: (M, B) -> (B,).

    Args:
        rewards: the members' rewards, (M, B).
        penalty: at least 0; the standard deviation is that of the members themselves (divided by M).
    """
    return rewards.mean(axis=0) - penalty * rewards.std(axis=0)


def _place(number: int) -> str:
    return f"member_{number}"
