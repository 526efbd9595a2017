"""Reward models: one interface, the frozen-encoder backbone, and how one is kept on disk.

A backbone is a class with the attribute `category` and the methods of `RewardModel`. Its `routed` scores a batch of mixed
categories at about the price of one model: `EmbeddingRewardModel` encodes every text once and runs each small head on
its own rows; a backbone of adapters on a language model would pass one adapter name a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from drirl_core.errors import ArtifactError, ModelError, TrainingError
from drirl_core.rewards.vectors import encode
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.quality import Soundness, has_words

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "reward_model.json"
FORMAT, FORMAT_VERSION = "drirl-reward-model", 3

EMPTY_MARGIN = 1.0
"""An empty reply is rewarded this many standard deviations below the worst reply of the training pool."""
_FEATURE_SCALE = 8.0
"""Brings unit embeddings to a size at which AdamW's usual learning rates move the head."""
LEAST_CLOSEST = 0.9
"""Cosine between prompt and answer that is never taken for an echo; good answers stay below, reworded prompts lie above."""
_ECHO_RAMP = 0.08
"""Distance beyond `Normalisation.closest` at which an answer is nothing but an echo."""
_PROBE = "I would rather not help with that, but here is something safer we could do."
_SAME_ENCODER = 0.999
"""Cosine between the stored and the present embedding of the probe sentence, from which the encoders are the same."""


class RewardModel(Protocol):
    """Reward completions of one category, r_k(x, y)."""

    category: str

    def use(self, embedder: Embedder) -> None:
        """Take the sentence encoder; a backbone that needs none ignores it."""
        ...

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards of answers, float64, (B,); a draft in front of an answer is cut off."""
        ...

    @classmethod
    def routed(
        cls, models: Mapping[str, Any], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows, each by its own category's model, float64, (B,)."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """What makes the rewards of categories comparable, taken over the training pool.

    Args:
        worst: lowest raw reward of a sampled reply or demonstration; broken text falls towards it.
        mean: mean of the gated raw rewards.
        scale: their standard deviation, above 0.
        closest: cosine between prompt and answer from which an answer begins to count as an echo of the prompt.
    """

    worst: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    closest: float = LEAST_CLOSEST


@dataclass(frozen=True)
class HeadShape:
    """How to rebuild a head.

    Args:
        category: the category it serves.
        encoder: reference of the sentence encoder.
        dim: width D of an embedding.
        hidden: width of the hidden layer, 0 for a linear head.
        dropout: dropout on the features while fitting.
    """

    category: str
    encoder: str
    dim: int
    hidden: int
    dropout: float


class EmbeddingRewardModel(nn.Module):
    """A small head over a frozen sentence encoder.

    `forward` is the differentiable raw reward for fitting; `rewards` is what everybody else uses: no gradient, broken text
    pulled to the worst reward (see `gated`), normalised, empty replies below everything.

    Args:
        shape: sizes and names.
        soundness: measure of ordinary prose.
        encoder_probe: the encoder's embedding of a fixed sentence, (D,), by which another encoder is recognised.
    """

    backbone: ClassVar[str] = "embedding"
    encoder_probe: torch.Tensor

    def __init__(self, shape: HeadShape, soundness: Soundness, encoder_probe: torch.Tensor) -> None:
        super().__init__()
        self.shape, self.soundness = shape, soundness
        self.category = shape.category
        self.normalisation = Normalisation()
        self._embedder: Embedder | None = None
        self.head = _mlp(shape, 2 * shape.dim)
        self.best_head = _mlp(shape, shape.dim)
        self.worst_head = _mlp(shape, shape.dim)
        self.register_buffer("encoder_probe", encoder_probe)

    @staticmethod
    def features(prompt_vectors: torch.Tensor, answer_vectors: torch.Tensor) -> torch.Tensor:
        """Join what a clause says with how it bears on the prompt.

        Args:
            prompt_vectors: u, unit rows, (..., D).
            answer_vectors: v, unit rows, (..., D); leading dimensions broadcast.

        Returns:
            [v, sqrt(D) u * v] times a constant, (..., 2 D). |u - v| is left out: measured on held-out rows it made the
            head count closeness to the prompt more, and a plain refusal less.
        """
        agreement = prompt_vectors * answer_vectors * answer_vectors.shape[-1] ** 0.5  # (..., D)
        return _FEATURE_SCALE * torch.cat([answer_vectors, agreement], dim=-1)

    def forward(self, prompt_vectors: torch.Tensor, answer_vectors: torch.Tensor) -> torch.Tensor:
        """Return raw rewards, differentiable: r(x, y) = mean_a g(u, v_a) + max_a h(v_a) + min_a w(v_a) over the clauses a of y.

        The mean sees how each clause bears on the prompt. The largest and the smallest value let one clause decide, for better
        or for worse: half a sentence that declines makes a refusal, whatever stands around it, and an embedding of the whole
        text hardly shows it. To an unsafe prompt that half sentence is what counts for the reply; to a harmless one, against it.

        Args:
            prompt_vectors: u, (..., D).
            answer_vectors: v from `vectors.encode`, (..., 1 + S, D).

        Returns:
            One raw reward a row, (...).
        """
        parts = answer_vectors[..., 1:, :]
        scores = self.head(self.features(prompt_vectors.unsqueeze(-2), parts)).squeeze(-1)
        best, worst = (head(_FEATURE_SCALE * parts).squeeze(-1) for head in (self.best_head, self.worst_head))
        return pooled(scores, best, worst, (parts != 0).any(dim=-1))

    def use(self, embedder: Embedder) -> None:
        """Take the sentence encoder, after a check that it is the one this head was learned on.

        Raises:
            ModelError: it is another encoder.
        """
        present = torch.from_numpy(np.array(embedder.encode([_PROBE])[0], dtype=np.float32))
        same = present.shape == self.encoder_probe.shape and float(present @ self.encoder_probe) >= _SAME_ENCODER
        if not same:
            raise ModelError(
                f"the reward model of {self.category} was learned on the encoder {self.shape.encoder} ({self.shape.dim} dimensions), but "
                f"{embedder.reference} ({len(present)} dimensions) is another one; set models.encoder back or learn the reward model again"
            )
        self._embedder = embedder

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards, comparable between categories.

        Args:
            prompts: B user messages.
            completions: B replies; a Chain-of-Draft draft is cut off, only the answer counts.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no encoder was given by `use`.
        """
        return self.routed({self.category: self}, prompts, completions, [self.category] * len(prompts))

    @classmethod
    def routed(
        cls, models: Mapping[str, Self], prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]
    ) -> np.ndarray:
        """Return rewards of mixed rows; every text is encoded once.

        Args:
            models: model by category, one for each category in `categories`, all on the same encoder.
            prompts: B user messages.
            completions: B replies.
            categories: category of each row.

        Returns:
            float64, (B,).

        Raises:
            ModelError: no encoder was given by `use`.
        """
        if not len(prompts):
            return np.zeros(0)
        answers = [cut_draft(completion) for completion in completions]
        embedder = next(iter(models.values()))._embedder
        if embedder is None:
            raise ModelError(
                f"the reward models of {', '.join(models)} have no encoder yet; call use(Embedder(config.models, store)) first"
            )
        users_vectors, answer_vectors = encode(embedder, prompts, answers)
        names = np.array(categories)
        values = np.zeros(len(answers))
        for category in dict.fromkeys(categories):
            rows = np.flatnonzero(names == category)
            users, replies = [prompts[row] for row in rows], [answers[row] for row in rows]
            values[rows] = models[category].rewards_of(users_vectors[rows], answer_vectors[rows], users, replies)
        return values

    @torch.no_grad()
    def rewards_of(
        self, prompt_vectors: np.ndarray, answer_vectors: np.ndarray, prompts: Sequence[str], answers: Sequence[str]
    ) -> np.ndarray:
        """Return normalised rewards of rows whose texts are embedded already.

        Args:
            prompt_vectors: u, (B, D).
            answer_vectors: v from `vectors.encode`, (B, 1 + S, D).
            prompts: the B user messages.
            answers: the B answers without drafts; the words of both decide soundness and emptiness.

        Returns:
            (gated reward - mean) / scale, and for an answer without words (worst - mean) / scale - EMPTY_MARGIN, which is below
            every other value this model can give; float64, (B,).
        """
        training = self.training
        self.eval()
        raw = self(torch.tensor(prompt_vectors), torch.tensor(answer_vectors)).double()
        self.train(training)
        known = self.normalisation
        closeness = (prompt_vectors.astype(np.float64) * answer_vectors[:, 0]).sum(axis=-1)
        sound = self.soundness.score(prompts, answers) * (1 - ((closeness - known.closest) / _ECHO_RAMP).clip(0, 1))
        values = ((gated(raw, torch.from_numpy(sound), known.worst) - known.mean) / known.scale).numpy()
        lowest = (known.worst - known.mean) / known.scale - EMPTY_MARGIN
        return np.where([has_words(answer) for answer in answers], values, lowest)

    def save(self, folder: Path) -> None:
        """Write the weights and their description; equal models give equal bytes."""
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / WEIGHTS_FILE)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "backbone": self.backbone,
            "shape": asdict(self.shape),
            "normalisation": asdict(self.normalisation),
            "soundness": self.soundness.to_json(),
        }
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; use `load_reward_model`, which finds the right class.

        Raises:
            ArtifactError: a file is damaged or does not fit the description.
        """
        try:
            shape = HeadShape(**description["shape"])
            normalisation = Normalisation(**description["normalisation"])
            model = cls(shape, Soundness.from_json(description["soundness"]), torch.zeros(shape.dim))
            state = load_file(folder / WEIGHTS_FILE)
            model.load_state_dict(state)
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the reward model in {folder} is damaged or foreign ({_first_line(error)}); delete it and learn it again"
            ) from error
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in state.values()) and all(
            map(np.isfinite, asdict(normalisation).values())
        )
        if not finite or normalisation.scale <= 0:
            raise ArtifactError(
                f"the reward model in {folder} holds values that are not finite, or a scale of 0; learn it again"
            )
        model.normalisation = normalisation
        return model.eval()


def probe_encoder(embedder: Embedder) -> torch.Tensor:
    """Return the embedding of the fixed sentence by which an encoder is recognised, (D,)."""
    return torch.from_numpy(np.array(embedder.encode([_PROBE])[0], dtype=np.float32))


def pooled(scores: torch.Tensor, best: torch.Tensor, worst: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the mean of the clauses' scores plus the largest of their `best` and the smallest of their `worst` scores.

    Args:
        scores: of every clause, (..., S).
        best: of every clause, (..., S).
        worst: of every clause, (..., S).
        present: true where there is a clause, bool, (..., S).

    Returns:
        (...); 0 for a row without clauses.
    """
    some = present.any(dim=-1)
    mean = (scores * present).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)
    largest = best.masked_fill(~present, -torch.inf).amax(dim=-1)
    smallest = worst.masked_fill(~present, torch.inf).amin(dim=-1)
    return torch.where(some, mean + torch.where(some, largest + smallest, 0.0), 0.0)


def _mlp(shape: HeadShape, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Dropout(shape.dropout)]
    if shape.hidden:
        layers += [nn.Linear(width, shape.hidden), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(shape.hidden or width, 1))


def gated(raw: torch.Tensor, soundness: torch.Tensor, worst: float | torch.Tensor) -> torch.Tensor:
    """Pull the rewards of broken text down: worst + soundness * max(raw - worst, 0).

    Args:
        raw: raw rewards, any shape.
        soundness: in [0, 1], of the same shape; 1 leaves a reward above `worst` as it is, 0 makes it `worst`.
        worst: the lowest reward anything gets.

    Returns:
        Rewards of at least `worst`, of the same shape.
    """
    return worst + soundness * (raw - worst).clamp(min=0)


def load_reward_model(path: Path, embedder: Embedder | None = None) -> RewardModel:
    """Open the reward model of an artifact.

    Args:
        path: directory with `reward_model.json` and `model.safetensors`.
        embedder: sentence encoder; may be given later by `use`, which `RewardRouter` does.

    Returns:
        The model, in evaluation mode.

    Raises:
        ArtifactError: a file is missing, damaged, or was written by another program or a later version.
        ModelError: the encoder is not the one it was learned on.
    """
    file = path / DESCRIPTION_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{file} cannot be read ({_first_line(error)}); give the directory of a reward_model artifact"
        ) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} does not describe a reward model of this project; give the directory of a reward_model artifact"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{file} has format version {description.get('format_version')}, {FORMAT_VERSION} is read; learn the reward model again"
        )
    backbones = {EmbeddingRewardModel.backbone: EmbeddingRewardModel}
    if description.get("backbone") not in backbones:
        raise ArtifactError(f"{file} names the backbone {description.get('backbone')!r}; known: {', '.join(backbones)}")
    model = backbones[description["backbone"]].load(path, description)
    if embedder is not None:
        model.use(embedder)
    return model


def require_finite(values: np.ndarray, categories: Sequence[str]) -> None:
    """Refuse rewards that are not finite.

    Raises:
        TrainingError: naming the first such row and its category.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TrainingError(
            f"the reward of row {bad[0]} ({categories[bad[0]]}) is {values[bad[0]]}; {len(bad)} of {len(values)} rewards are not finite. "
            "The reward model or the encoder is damaged: learn the reward model again"
        )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
