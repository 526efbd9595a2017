"""The encoder backbone: a small reward head over the embeddings of a frozen sentence encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from drirl_core.errors import ModelError
from drirl_core.rewards.model import (
    LEAST_CLOSEST,
    Normalisation,
    Prepared,
    by_category,
    damage_reported,
    mlp,
    normalised,
    own_content,
    read_weights,
    require_finite_model,
    write_model,
)
from drirl_core.rewards.pairs import CORRUPTED, Pool, PoolPrompt, by_prompt
from drirl_core.rewards.vectors import encode
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.quality import TextQuality

if TYPE_CHECKING:
    from drirl_core.config import RewardsConfig
    from drirl_core.models.embeddings import Embedder
    from drirl_core.reporting import Reporter

_FEATURE_SCALE = 8.0
"""Scales unit embeddings to a size at which AdamW's usual learning rates change the head."""
_PROBE = "I would rather not help with that, but here is something safer we could do."
_SAME_ENCODER = 0.999
"""Least cosine of the stored and current embedding of the probe sentence at which two encoders count as the same."""
_TOLERATED_SHARE = 0.95
"""Share of the demonstrations that are as close to their prompt as an answer may be."""


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

    `forward` is the differentiable raw reward for fitting; `rewards` is what all other code uses: no gradient,
    degenerate text pulled to the worst reward (see `gated`), normalised, empty completions below everything.

    Args:
        shape: sizes and names.
        text_quality: measure of text quality.
        encoder_probe: the encoder's embedding of a fixed sentence, (D,), by which another encoder is recognised.
    """

    backbone: ClassVar[str] = "embedding"
    reads: Literal["encoder", "policy"] = "encoder"
    batch_key: str = "embedding"
    encoder_probe: torch.Tensor

    def __init__(self, shape: HeadShape, text_quality: TextQuality, encoder_probe: torch.Tensor) -> None:
        super().__init__()
        self.shape, self.text_quality = shape, text_quality
        self.category = shape.category
        self.normalisation = Normalisation()
        self._embedder: Embedder | None = None
        self.head = mlp(2 * shape.dim, shape.hidden, shape.dropout)
        self.best_head = mlp(shape.dim, shape.hidden, shape.dropout)
        self.worst_head = mlp(shape.dim, shape.hidden, shape.dropout)
        self.register_buffer("encoder_probe", encoder_probe)

    @classmethod
    def prepare(
        cls,
        category: str,
        prompts: tuple[Sequence[PoolPrompt], Sequence[PoolPrompt]],
        source: Embedder,
        config: RewardsConfig,
        reporter: Reporter,
    ) -> Prepared:
        """Embed the pools, and learn from the training prompts what text quality and an echo are.

        Args:
            category: name of the category.
            prompts: training and validation prompts, at least one of each.
            source: sentence encoder.
            config: width and dropout of the head.
            reporter: gets progress.
        """
        known = prompts[0]
        fluent = [reply.answer for p in known for reply in p.replies if reply.policy != CORRUPTED]
        quality = TextQuality.learn([p.prompt for p in known], [p.answer for p in known], fluent)
        train, validation = (embed_pool(part, source, quality, reporter) for part in prompts)
        cosines = (train.own[0].double() * train.own[1][:, 0]).sum(dim=1)
        closest = max(LEAST_CLOSEST, float(cosines.quantile(_TOLERATED_SHARE)))
        shape = HeadShape(category, source.reference, train.own[0].shape[1], config.hidden, config.dropout)
        encoder_probe = probe_encoder(source)

        def untrained() -> EmbeddingRewardModel:
            model = cls(shape, quality, encoder_probe)
            model.normalisation = Normalisation(closest=closest)
            return model

        return Prepared(train, validation, untrained)

    @staticmethod
    def read_rows(
        prompts: Sequence[str], answers: Sequence[str], source: Embedder, config: RewardsConfig, reporter: Reporter
    ) -> tuple[np.ndarray, ...]:
        """Read rows beside the pools, for `forward` and `rewards_of`: u, (B, D), and v, (B, 1 + S, D)."""
        return encode(source, prompts, answers, reporter)

    def row_features(self, prompt_vectors: torch.Tensor, answer_vectors: torch.Tensor) -> torch.Tensor:
        """Return the mean over a row's clauses of what the head of the mean reads, (B, 2 D); 0 without clauses."""
        parts = answer_vectors[..., 1:, :]
        present = (parts != 0).any(dim=-1, keepdim=True)
        read = self.features(prompt_vectors.unsqueeze(-2), parts) * present
        return read.sum(dim=-2) / present.sum(dim=-2).clamp(min=1)

    @staticmethod
    def features(prompt_vectors: torch.Tensor, answer_vectors: torch.Tensor) -> torch.Tensor:
        """Join what a clause says with how it relates to the prompt.

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
        """Return raw rewards, differentiable: r(x, y) = mean_a g(u, v_a) + max_a h(v_a) + min_a w(v_a), clause a of y.

        The mean sees how each clause relates to the prompt. The largest and the smallest value let one clause decide:
        half a sentence that declines makes a refusal, whatever is around it, and an embedding of the complete text
        hardly shows it. To an unsafe prompt that half sentence is what counts for the completion;
        to a harmless one, against it.

        Args:
            prompt_vectors: u, (..., D).
            answer_vectors: v from `vectors.encode`, (..., 1 + S, D).

        Returns:
            One raw reward per row, (...).
        """
        parts = answer_vectors[..., 1:, :]
        scores = self.head(self.features(prompt_vectors.unsqueeze(-2), parts)).squeeze(-1)
        best, worst = (head(_FEATURE_SCALE * parts).squeeze(-1) for head in (self.best_head, self.worst_head))
        return pooled(scores, best, worst, (parts != 0).any(dim=-1))

    def use(self, source: Embedder) -> None:
        """Take the sentence encoder, after a check that it is the one this head was learned on.

        Raises:
            ModelError: it is another encoder.
        """
        present = probe_encoder(source)
        same = present.shape == self.encoder_probe.shape and float(present @ self.encoder_probe) >= _SAME_ENCODER
        if not same:
            raise ModelError(
                f"the reward model of {self.category} was learned on the encoder {self.shape.encoder} "
                f"({self.shape.dim} dimensions), but {source.reference} ({len(present)} dimensions) is another one; "
                "set models.encoder back or learn the reward model again"
            )
        self._embedder = source

    def rewards(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Return normalised rewards, comparable between categories.

        Args:
            prompts: B user messages.
            completions: B completions; a Chain-of-Draft draft is cut off, only the answer counts.

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
            completions: B completions.
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
                f"the reward models of {', '.join(models)} have no encoder yet; "
                "call use(Embedder(config.models, store)) first"
            )
        users_vectors, answer_vectors = encode(embedder, prompts, answers)

        def score(category: str, rows: np.ndarray) -> np.ndarray:
            users, own = [prompts[row] for row in rows], [answers[row] for row in rows]
            return models[category].rewards_of(users_vectors[rows], answer_vectors[rows], users, own)

        return by_category(categories, score)

    @torch.no_grad()
    def rewards_of(
        self, prompt_vectors: np.ndarray, answer_vectors: np.ndarray, prompts: Sequence[str], answers: Sequence[str]
    ) -> np.ndarray:
        """Return normalised rewards of rows whose texts are embedded already.

        Args:
            prompt_vectors: u, (B, D).
            answer_vectors: v from `vectors.encode`, (B, 1 + S, D).
            prompts: the B user messages.
            answers: the B answers without drafts; the words of both decide text quality and emptiness.

        Returns:
            As `model.normalised`, float64, (B,).
        """
        training = self.training
        self.eval()
        raw = self(torch.tensor(prompt_vectors), torch.tensor(answer_vectors)).double()
        self.train(training)
        known = self.normalisation
        closeness = (prompt_vectors.astype(np.float64) * answer_vectors[:, 0]).sum(axis=-1)
        quality = self.text_quality.score(prompts, answers) * own_content(closeness, known.closest)
        return normalised(raw, quality, known, answers)

    def save(self, folder: Path) -> None:
        """Write the weights and their description; equal models give equal bytes."""
        fields = {
            "shape": asdict(self.shape),
            "normalisation": asdict(self.normalisation),
            "soundness": self.text_quality.to_json(),
        }
        write_model(folder, self.backbone, self.state_dict(), fields)

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; use `load_reward_model`, which finds the right class.

        Raises:
            ArtifactError: a file is damaged or does not fit the description.
        """
        with damage_reported(folder):
            shape = HeadShape(**description["shape"])
            normalisation = Normalisation(**description["normalisation"])
            model = cls(shape, TextQuality.from_json(description["soundness"]), torch.zeros(shape.dim))
            state = read_weights(folder)
            model.load_state_dict(state)
        require_finite_model(folder, state, normalisation)
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


def embed_pool(
    prompts: Sequence[PoolPrompt], embedder: Embedder, quality: TextQuality, reporter: Reporter | None = None
) -> Pool:
    """Encode a pool once.

    Args:
        prompts: P prompts, at least one.
        embedder: sentence encoder of width D.
        quality: measure of text quality.
        reporter: gets progress.

    Returns:
        The pool; `own` is u, (P, D), and the demonstrations' v, (P, 1 + S, D); `others` is u for every completion,
        (P, K, D), and the completions' v, (P, K, 1 + S, D).
    """
    answers = [text for p in prompts for text in (p.answer, *(reply.answer for reply in p.replies))]
    users, vectors = encode(embedder, [p.prompt for p in prompts], answers, reporter)
    own, others = by_prompt(prompts, vectors)
    users_vectors = torch.tensor(users)
    beside = users_vectors.unsqueeze(1).expand(-1, others.shape[1], -1)
    return Pool.of(prompts, (users_vectors, own), (beside, others), quality.score)
