"""Learn one reward head from demonstrations and completion pools.

The embeddings are computed once and the head is small, so fitting runs on one CPU thread whatever the machine: about a
second for a category of the demo, no waiting for threads on a busy machine, and the same bits however many cores there are.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from drirl_core.config import RewardsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.reporting import Reporter
from drirl_core.rewards.backbones.encoder import EmbeddingRewardModel, HeadShape, probe_encoder
from drirl_core.rewards.model import LEAST_CLOSEST, Normalisation, gated
from drirl_core.rewards.objectives import bradley_terry_loss, centring_penalty, linear_loss, maxent_loss
from drirl_core.rewards.pairs import CORRUPTED, EmbeddedPool, PoolPrompt, embed_pool
from drirl_core.text.quality import TextQuality

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder

logger = logging.getLogger(__name__)

PATIENCE = 20
"""Epochs without a better validation loss after which fitting stops."""
_LEAST_SCALE = 1e-6
_TOLERATED_SHARE = 0.95
"""Share of the demonstrations that are as close to their prompt as an answer may be."""


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve.

    Args:
        epoch: number, from 1.
        train_loss: mean over training prompts, dropout on.
        validation_loss: mean over validation prompts.
        validation_accuracy: share of validation pairs whose demonstration is ahead, in [0, 1].
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """What fitting returns.

    Args:
        model: the head of the best epoch, normalised, with its encoder.
        curve: every epoch that ran.
        best_epoch: number of the kept one.
    """

    model: EmbeddingRewardModel
    curve: tuple[Epoch, ...]
    best_epoch: int


def fit(
    category: str,
    prompts: Sequence[PoolPrompt],
    embedder: Embedder,
    config: RewardsConfig,
    seed: int,
    reporter: Reporter,
) -> Fitted:
    """Learn the reward head of a category; the same arguments give the same weights.

    Args:
        category: name of the category.
        prompts: prompts with their pools; the splits `train` and `validation` are used.
        embedder: frozen sentence encoder.
        config: objective and optimiser.
        seed: of initial weights, order and dropout; the global generator and thread count are left as they were.
        reporter: gets the curve.

    Returns:
        The model of the epoch with the lowest validation loss, and the curve.

    Raises:
        DataError: the training or validation split has no prompt with a usable completion.
        TrainingError: the loss is not finite, or the reward came out constant.
    """
    train_prompts = [p for p in prompts if p.split == "train"]
    validation_prompts = [p for p in prompts if p.split == "validation"]
    if not train_prompts or not validation_prompts:
        raise DataError(
            f"{category}: {len(train_prompts)} training and {len(validation_prompts)} validation prompts; both are needed"
        )
    fluent = [reply.answer for p in train_prompts for reply in p.replies if reply.policy != CORRUPTED]
    text_quality = TextQuality.learn([p.prompt for p in train_prompts], [p.answer for p in train_prompts], fluent)
    train = _usable(embed_pool(train_prompts, embedder, text_quality, reporter), f"{category}: training")
    validation = _usable(embed_pool(validation_prompts, embedder, text_quality, reporter), f"{category}: validation")
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        shape = HeadShape(category, embedder.reference, train.prompt_vectors.shape[1], config.hidden, config.dropout)
        model = EmbeddingRewardModel(shape, text_quality, probe_encoder(embedder))
        curve, best = _train(model, train, validation, config, reporter)
        model.normalisation = _normalisation(model, train, category)
    model.use(embedder)
    return Fitted(model, tuple(curve), best)


def losses(model: EmbeddingRewardModel, pool: EmbeddedPool, config: RewardsConfig) -> torch.Tensor:
    """Return the loss of every prompt, (P,), differentiable.

    A corrupted row counts as it will be scored, pulled down by its text quality: what the words give away already need
    not be learned by a head that cannot see it. All other rows count by the head alone, or the easy cue (completions stop at
    the length limit, demonstrations end) would stand in for their meaning.

    Args:
        model: the head.
        pool: P prompts.
        config: objective, beta, penalties.
    """
    own, others = _raw(model, pool)
    real = torch.cat([own, others[pool.mask & ~pool.corrupted]]).detach()
    others = torch.where(pool.corrupted, gated(others, pool.text_quality, real.min()), others)
    if config.objective == "maxent":
        main = maxent_loss(own, others, pool.mask, config.beta, config.include_demonstration)
    elif config.objective == "bradley_terry":
        main = bradley_terry_loss(own, others, pool.mask, config.beta)
    else:
        main = linear_loss(own, others, pool.mask, config.l2)
    return main + config.centre * centring_penalty(own, others, pool.mask)


def _raw(model: EmbeddingRewardModel, pool: EmbeddedPool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the raw rewards of demonstrations, (P,), and completions, (P, K)."""
    prompts = pool.prompt_vectors.unsqueeze(1).expand(-1, pool.mask.shape[1], -1)
    return model(pool.prompt_vectors, pool.demonstration_vectors), model(prompts, pool.reply_vectors)


def _train(
    model: EmbeddingRewardModel,
    train: EmbeddedPool,
    validation: EmbeddedPool,
    config: RewardsConfig,
    reporter: Reporter,
) -> tuple[list[Epoch], int]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    curve: list[Epoch] = []
    best, kept = Epoch(0, math.inf, math.inf, 0.0), copy.deepcopy(model.state_dict())
    for number in range(1, config.epochs + 1):
        point = Epoch(number, _epoch(model, train, optimiser, config), *_validate(model, validation, config))
        curve.append(point)
        reporter.metrics(
            number,
            {
                "train_loss": point.train_loss,
                "validation_loss": point.validation_loss,
                "validation_accuracy": point.validation_accuracy,
            },
        )
        if not (math.isfinite(point.train_loss) and math.isfinite(point.validation_loss)):
            raise TrainingError(
                f"{model.category}: the reward loss is not finite in epoch {number} (training {point.train_loss}, validation "
                f"{point.validation_loss}); lower rewards.learning_rate ({config.learning_rate}) or raise rewards.beta ({config.beta})"
            )
        if point.validation_loss < best.validation_loss:
            best, kept = point, copy.deepcopy(model.state_dict())
        elif number - best.epoch >= PATIENCE:
            break
    model.load_state_dict(kept)
    model.eval()
    reporter.log(
        f"{model.category}: epoch {best.epoch} of {len(curve)} kept, validation loss {best.validation_loss:.3f}, "
        f"accuracy {best.validation_accuracy:.1%}"
    )
    return curve, best.epoch


def _epoch(
    model: EmbeddingRewardModel, train: EmbeddedPool, optimiser: torch.optim.Optimizer, config: RewardsConfig
) -> float:
    model.train()
    total = 0.0
    for rows in torch.randperm(len(train.prompts)).split(config.batch_size):
        batch = losses(model, train.part(rows), config)
        optimiser.zero_grad()
        batch.mean().backward()
        optimiser.step()
        total += float(batch.detach().sum())
    return total / len(train.prompts)


@torch.no_grad()
def _validate(model: EmbeddingRewardModel, pool: EmbeddedPool, config: RewardsConfig) -> tuple[float, float]:
    model.eval()
    own, others = _raw(model, pool)
    ahead = (own.unsqueeze(1) > others)[pool.mask & ~pool.corrupted]
    return float(losses(model, pool, config).mean()), float(ahead.float().mean()) if len(ahead) else 0.0


@torch.no_grad()
def _normalisation(model: EmbeddingRewardModel, train: EmbeddedPool, category: str) -> Normalisation:
    """Take worst, closest, mean and scale over the training pool, with the rewards as they will be given."""
    own, others = (raw.double() for raw in _raw(model, train))
    worst = float(torch.cat([own, others[train.mask & ~train.corrupted]]).min())
    closeness = (
        (train.prompt_vectors.double() * train.demonstration_vectors[:, 0]).sum(dim=1).quantile(_TOLERATED_SHARE)
    )
    closest = max(LEAST_CLOSEST, float(closeness))
    model.normalisation = Normalisation(worst=worst, closest=closest)
    where, which = train.mask.nonzero(as_tuple=True)  # one entry a completion
    users = [p.prompt for p in train.prompts]
    values = np.concatenate([
        model.rewards_of(train.prompt_vectors.numpy(), train.demonstration_vectors.numpy(), users, [p.answer for p in train.prompts]),
        model.rewards_of(
            train.prompt_vectors[where].numpy(), train.reply_vectors[where, which].numpy(), [users[i] for i in where.tolist()],
            [train.prompts[i].replies[k].answer for i, k in zip(where.tolist(), which.tolist(), strict=True)],
        ),
    ])  # fmt: skip
    mean, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and scale > _LEAST_SCALE * max(1.0, abs(mean))):
        raise TrainingError(
            f"{category}: reward constant: over {len(values)} training rows its standard deviation is {scale:.2g}; nothing was learned. "
            "Raise rewards.learning_rate or rewards.epochs, or check that demonstrations and completions differ"
        )
    return Normalisation(worst, mean, scale, closest)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _usable(pool: EmbeddedPool, what: str) -> EmbeddedPool:
    """Leave out prompts whose completions are all empty."""
    rows = pool.mask.any(dim=1).nonzero().squeeze(1)
    if not len(rows):
        raise DataError(
            f"{what}: none of {len(pool.prompts)} prompts has a completion with words; check the completion pool"
        )
    if len(rows) < len(pool.prompts):
        logger.info(
            "%s: %d of %d prompts have only empty completions and are left out",
            what,
            len(pool.prompts) - len(rows),
            len(pool.prompts),
        )
    return pool.part(rows)
