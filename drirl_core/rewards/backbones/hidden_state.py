"""The hidden-state backbone: a small reward head over a middle layer of the frozen policy.

The policy itself knows whether a prompt is harmful and whether a completion declines, and it sees the order of words,
so only two rules are added to the head: an empty completion is below everything, and one that the rules judge
calls degenerate or an echo gets the worst reward. The finer text quality of the `embedding` backbone is left out: it
counts short and unfinished texts as damaged, but a plain refusal is short and a rollout at its length limit unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from drirl_core.benchmarks.judges.rules import is_degenerate, is_echo
from drirl_core.errors import ModelError
from drirl_core.models.hidden_states import COMPLETION_MEAN
from drirl_core.rewards.model import (
    Normalisation,
    Prepared,
    by_category,
    damage_reported,
    mlp,
    normalised,
    read_weights,
    require_finite_model,
    write_model,
)
from drirl_core.rewards.pairs import Pool, PoolPrompt, by_prompt
from drirl_core.text.chain_of_draft import cut_draft

if TYPE_CHECKING:
    from drirl_core.config import RewardsConfig
    from drirl_core.models.hidden_states import HiddenStates
    from drirl_core.reporting import Reporter

_LEAST_SPREAD = 1e-6
"""A feature that varies less over the training pool is only centred."""


@dataclass(frozen=True)
class HiddenShape:
    """How to rebuild a head.

    Args:
        category: the category it serves.
        policy: reference of the frozen policy.
        digest: what identifies that policy's content.
        layer: number of the layer it reads.
        dim: width H of a hidden state.
        features: which of the two vectors of a row it reads.
        hidden: width of the hidden layer, 0 for a linear head.
        dropout: dropout on the features while fitting.
    """

    category: str
    policy: str
    digest: str
    layer: int
    dim: int
    features: Literal["completion", "prompt_and_completion"]
    hidden: int
    dropout: float

    @property
    def width(self) -> int:
        """Number of features."""
        return self.dim if self.features == "completion" else 2 * self.dim


class HiddenStateRewardModel(nn.Module):
    """A small head over hidden states of the frozen policy: r(x, y) = g( (z - m) / s ).

    z is the mean of the layer's states over the completion's tokens, after the state of the last prompt token where
    the features ask for it; m and s are its mean and standard deviation over the training pool.

    Args:
        shape: sizes and names.
        mean: m, (F,).
        scale: s, above 0, (F,).
    """

    backbone: ClassVar[str] = "hidden_state"
    reads: Literal["encoder", "policy"] = "policy"
    feature_mean: torch.Tensor
    feature_scale: torch.Tensor

    def __init__(self, shape: HiddenShape, mean: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.shape, self.category, self.layer = shape, shape.category, shape.layer
        self.normalisation = Normalisation()
        self._source: HiddenStates | None = None
        self.head = mlp(shape.width, shape.hidden, shape.dropout)
        self.register_buffer("feature_mean", mean)
        self.register_buffer("feature_scale", scale)

    @property
    def batch_key(self) -> str:
        """Models of one layer are scored together."""
        return f"hidden_state {self.layer}"

    @classmethod
    def prepare(
        cls,
        category: str,
        prompts: tuple[Sequence[PoolPrompt], Sequence[PoolPrompt]],
        source: HiddenStates,
        config: RewardsConfig,
        reporter: Reporter,
    ) -> Prepared:
        """Read the pools, and take mean and scale of the features over the training pool.

        Args:
            category: name of the category.
            prompts: training and validation prompts, at least one of each.
            source: hidden states of the frozen policy.
            config: layer, features, width and dropout of the head.
            reporter: gets progress.

        Raises:
            ModelError: the policy has no such layer.
        """
        layer = source.layer_of(config.layer)
        train, validation = (read_pool(part, source, layer, reporter) for part in prompts)
        shape = HiddenShape(
            category, source.reference, source.digest, layer, source.dim, config.features, config.hidden, config.dropout
        )
        mean, scale = standardisation(selected(torch.from_numpy(train.rows()[0][0]), shape.features))

        def untrained() -> HiddenStateRewardModel:
            return cls(shape, mean.clone(), scale.clone())

        return Prepared(train, validation, untrained)

    @staticmethod
    def read_rows(
        prompts: Sequence[str], answers: Sequence[str], source: HiddenStates, config: RewardsConfig, reporter: Reporter
    ) -> tuple[np.ndarray, ...]:
        """Read rows beside the pools, for `forward` and `rewards_of`: the two vectors of each row, (B, 2, H)."""
        return (source.encode(prompts, answers, source.layer_of(config.layer), reporter),)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return raw rewards, differentiable.

        Args:
            states: the two vectors of each row, from `HiddenStates.encode`, (..., 2, H).

        Returns:
            One raw reward per row, (...).
        """
        return self.head(self.row_features(states)).squeeze(-1)

    def row_features(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the head reads of rows, standardised over the training pool: (..., 2, H) -> (..., F)."""
        return (selected(states, self.shape.features) - self.feature_mean) / self.feature_scale

    def use(self, source: HiddenStates) -> None:
        """Take the hidden states, after a check that they are those of the policy this head was learned on.

        Raises:
            ModelError: it is another policy.
        """
        require_same_policy(self.shape, source)
        self._source = source

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards, comparable between categories.

        Args:
            prompts: B user messages.
            completions: B completions; a Chain-of-Draft draft is cut off, only the answer is read.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no hidden states were given by `use`.
        """
        return self.routed({self.category: self}, prompts, completions, [self.category] * len(prompts))

    @classmethod
    def routed(
        cls, models: Mapping[str, Self], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows; every row is read once, by the one policy that all categories share.

        Args:
            models: model by category, one for each category in `categories`, all on the same policy and layer.
            prompts: B user messages.
            completions: B completions.
            categories: category of each row.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no hidden states were given by `use`.
        """
        if not len(prompts):
            return np.zeros(0)
        answers = [cut_draft(completion) for completion in completions]
        first = next(iter(models.values()))
        if first._source is None:
            raise ModelError(
                f"the reward models of {', '.join(models)} have no hidden states yet; "
                "call use(HiddenStates(config.models, store)) first"
            )
        states = first._source.encode(prompts, answers, first.layer)

        def score(category: str, rows: np.ndarray) -> np.ndarray:
            own = ([column[row] for row in rows] for column in (prompts, answers))
            return models[category].rewards_of(states[rows], *own)

        return by_category(categories, score)

    @torch.no_grad()
    def rewards_of(self, states: np.ndarray, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Return normalised rewards of rows that are read already.

        Args:
            states: the two vectors of each row, (B, 2, H).
            prompts: the B user messages.
            answers: the B answers without drafts.

        Returns:
            As `model.normalised`, float64, (B,).
        """
        training = self.training
        self.eval()
        raw = self(torch.tensor(states)).double()
        self.train(training)
        return normalised(raw, intact(prompts, answers), self.normalisation, answers)

    def save(self, folder: Path) -> None:
        """Write the weights and their description; equal models give equal bytes."""
        fields = {"shape": asdict(self.shape), "normalisation": asdict(self.normalisation)}
        write_model(folder, self.backbone, self.state_dict(), fields)

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; use `load_reward_model`, which finds the right class.

        Raises:
            ArtifactError: a file is damaged or does not fit the description.
        """
        with damage_reported(folder):
            shape = HiddenShape(**description["shape"])
            normalisation = Normalisation(**description["normalisation"])
            model = cls(shape, torch.zeros(shape.width), torch.ones(shape.width))
            state = read_weights(folder)
            model.load_state_dict(state)
        require_finite_model(folder, state, normalisation)
        model.normalisation = normalisation
        return model.eval()


def selected(states: torch.Tensor, features: str) -> torch.Tensor:
    """Return the features of rows: (..., 2, H) -> (..., H) for `completion`, (..., 2 H) for `prompt_and_completion`."""
    return states[..., COMPLETION_MEAN, :] if features == "completion" else states.flatten(start_dim=-2)


def read_pool(
    prompts: Sequence[PoolPrompt], source: HiddenStates, layer: int, reporter: Reporter | None = None
) -> Pool:
    """Read a pool once.

    Args:
        prompts: P prompts, at least one.
        source: hidden states of the frozen policy.
        layer: number of the layer.
        reporter: gets progress.

    Returns:
        The pool; `own` and `others` are the two vectors of each row, (P, 2, H) and (P, K, 2, H).
    """
    users = [p.prompt for p in prompts for _ in range(1 + len(p.replies))]
    answers = [text for p in prompts for text in (p.answer, *(reply.answer for reply in p.replies))]
    own, others = by_prompt(prompts, source.encode(users, answers, layer, reporter))
    return Pool.of(prompts, (own,), (others,), intact)


def intact(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return 0 for answers that the rules judge calls degenerate or an echo of their prompt, 1 for all others, (B,)."""
    return np.array(
        [
            float(not (is_degenerate(answer) or is_echo(answer, prompt)))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    )


def require_same_policy(shape: Any, source: HiddenStates) -> None:
    """Refuse a policy that is not the one a reward model was learned on.

    Args:
        shape: of the reward model, with its `category`, and `policy` and `digest` of what it was learned on.
        source: gives the current policy.

    Raises:
        ModelError: it is another policy.
    """
    if shape.digest not in (source.digest, *getattr(source, "former_digests", ())):
        raise ModelError(
            f"the reward model of {shape.category} was learned on the hidden states of {shape.policy} "
            f"({shape.digest}), but {source.reference} ({source.digest}) is another policy; "
            "set models.policy back or learn the reward model again"
        )


def standardisation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of features (N, F), each (F,); numpy's sums do not depend on the threads."""
    values = features.numpy().astype(np.float64)
    scale = values.std(axis=0)
    scale[scale < _LEAST_SPREAD] = 1.0
    return torch.tensor(values.mean(axis=0), dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)
