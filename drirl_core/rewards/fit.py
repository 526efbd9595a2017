"""Learn one reward head from demonstrations and completion pools.

What a head reads is computed once and the head is small, so fitting it runs on one CPU thread on every machine:
about a second for a category of the demo, no waiting for threads on a busy machine, and the same bits on any number of
cores. The backbone `adapter` trains a part of the policy instead, on all threads or a GPU, in the same loop.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from drirl_core.config import RewardsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.reporting import Reporter
from drirl_core.rewards.ensemble import EnsembleRewardModel
from drirl_core.rewards.labels.items import LabelledItem, LabelledRows, beside_demonstrations, without_labelled_right
from drirl_core.rewards.model import Prepared, RewardModel, backbone_class, gated, mean_and_scale
from drirl_core.rewards.objectives import (
    balanced_weights,
    bradley_terry_loss,
    centring_penalty,
    classifier_loss,
    labelled_loss,
    linear_loss,
    maxent_loss,
)
from drirl_core.rewards.pairs import Pool, PoolPrompt, with_positives, without_likely_right

logger = logging.getLogger(__name__)

PATIENCE, SLOW_PATIENCE = 20, 2
"""Epochs without a better validation loss after which fitting stops; the second where an epoch takes minutes."""
_SAID_EVERY = 10
"""Epochs from one report of the curve to the next: an epoch takes milliseconds, and the artifact has all of them."""
_SEED_STEP = 1009
"""Distance of the seeds of two runs that both fit ensembles."""


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
        model: the head of the best epoch, or the ensemble of such heads, normalised, with the encoder or
            the policy it reads texts with.
        curve: every epoch that ran, of an ensemble those of its first member.
        best_epoch: number of the kept one.
    """

    model: Any
    curve: tuple[Epoch, ...]
    best_epoch: int


def fit(
    category: str,
    prompts: Sequence[PoolPrompt],
    source: Any,
    config: RewardsConfig,
    seed: int,
    reporter: Reporter,
    own_answers: bool = False,
    labels: Sequence[LabelledItem] = (),
) -> Fitted:
    """Learn the reward model of a category; the same arguments give the same weights.

    Args:
        category: name of the category.
        prompts: prompts with their pools; the splits `train` and `validation` are used.
        source: what the backbone reads texts with: the `Embedder` or the policy's `HiddenStates`.
        config: backbone, objective, optimiser and ensemble.
        seed: of initial weights, order, dropout and bootstrap; the global generator and thread count are left as they
            were.
        reporter: gets the first and every tenth point of the curve, of the backbone `adapter` every point.
        own_answers: whether the start learned the initial model's own answers to harmless prompts, so that its samples
            are likely as right as those.
        labels: completions that people labelled; those of the splits `train` and `validation` are used, and those that
            are right are taken out of the pools.

    Returns:
        The model of the epoch with the lowest validation loss, and the curve.

    Raises:
        DataError: the training or validation split has no prompt with a usable completion, or there is nothing to set
            against a demonstration.
        TrainingError: the loss is not finite, or the reward came out constant.
    """
    config = config.of_backbone
    if config.positives != "demonstrations":
        given, prompts = len(prompts), with_positives(prompts, config.positives, category)
        reporter.log(f"{category}: {len(prompts)} positives of {given} prompts (rewards.positives: {config.positives})")
    if config.negatives == "likely_wrong" and config.objective != "classifier":
        prompts = without_likely_right(prompts, category, own_answers)
    labels = beside_demonstrations(labels, prompts)
    prompts = without_labelled_right(prompts, labels)
    train = [p for p in prompts if p.split == "train"]
    validation = [p for p in prompts if p.split == "validation"]
    if not train or not validation:
        raise DataError(f"{category}: {len(train)} training and {len(validation)} validation prompts; both are needed")
    prepared = backbone_class(config.backbone).prepare(category, (train, validation), source, config, reporter)
    prepared = dataclasses.replace(
        prepared,
        train=_usable(prepared.train, f"{category}: training"),
        validation=_usable(prepared.validation, f"{category}: validation"),
    )
    labelled = [_labelled(labels, split, source, config, reporter) for split in ("train", "validation")]
    sets = Material(prepared.train, labelled[0]), Material(prepared.validation, labelled[1])
    threads = contextlib.nullcontext() if prepared.slow else _one_thread()
    with torch.random.fork_rng(devices=[]), threads, prepared.block():
        learned = [_member(prepared, sets, config, seed, number, reporter) for number in range(config.ensemble)]
        model: RewardModel = learned[0].model
        if config.ensemble > 1:
            model = EnsembleRewardModel([one.model for one in learned], config.ensemble_penalty)
            model.settle(prepared.train)
    model.use(source)
    return Fitted(model, learned[0].curve, learned[0].best_epoch)


class Material(NamedTuple):
    """What a head is fitted on, or chosen by.

    Args:
        pool: prompts with demonstrations and completions.
        labelled: completions that people labelled; None where there are none.
    """

    pool: Pool
    labelled: LabelledRows | None

    def drawn(self) -> Material:
        """Return a bootstrap draw of the prompts, and one of the labelled items."""
        count = len(self.pool.prompts)
        pool = self.pool.part(torch.randint(count, (count,)))
        if self.labelled is None:
            return Material(pool, None)
        return Material(pool, self.labelled.part(torch.randint(len(self.labelled), (len(self.labelled),))))


def _member(
    prepared: Prepared,
    sets: tuple[Material, Material],
    config: RewardsConfig,
    seed: int,
    number: int,
    reporter: Reporter,
) -> Fitted:
    """Learn one head: on all training rows where it is alone, on a bootstrap draw of them within an ensemble."""
    torch.manual_seed(seed if config.ensemble == 1 else seed * _SEED_STEP + number)
    train, validation = sets
    if config.ensemble > 1:
        train = train.drawn()
    model = prepared.untrained()
    curve, best = _train(model, (train, validation), config, reporter, streams=number == 0, slow=prepared.slow)
    _settle(model, prepared.train)
    return Fitted(model, tuple(curve), best)


def _labelled(
    labels: Sequence[LabelledItem], split: str, source: Any, config: RewardsConfig, reporter: Reporter
) -> LabelledRows | None:
    """Read the labelled items of one split; None where there are none."""
    items = [item for item in labels if item.split == split]
    if not items:
        return None
    backbone = backbone_class(config.backbone)
    return LabelledRows.of(
        items, lambda prompts, answers: backbone.read_rows(prompts, answers, source, config, reporter)
    )


def losses(model: Any, pool: Pool, config: RewardsConfig) -> torch.Tensor:
    """Return the loss of every prompt, (P,), differentiable.

    A corrupted row counts as it will be scored, pulled down by its text quality: what the words give away already need
    not be learned by a head that cannot see it. All other rows count by the head alone; otherwise the head would learn
    the easy cue (completions stop at the length limit, demonstrations end) instead of the meaning.

    Args:
        model: the head.
        pool: P prompts.
        config: objective, beta, penalties.
    """
    return losses_of(*pool_rewards(model, pool), pool, config)


def pool_rewards(model: Any, pool: Pool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the raw rewards of demonstrations, (P,), and completions, (P, K), differentiable."""
    if hasattr(model, "pool_rewards"):
        return model.pool_rewards(pool)
    return model(*pool.own), model(*pool.others)


def losses_of(own: torch.Tensor, others: torch.Tensor, pool: Pool, config: RewardsConfig) -> torch.Tensor:
    """Return the loss of every prompt from the raw rewards of its pool, as `losses` does.

    Args:
        own: of the demonstrations, (P,).
        others: of the completions, (P, K).
        pool: P prompts.
        config: objective, beta, penalties.
    """
    real = torch.cat([own, others[pool.mask & ~pool.corrupted]]).detach()
    others = torch.where(pool.corrupted, gated(others, pool.text_quality, real.min()), others)
    if config.objective == "maxent":
        main = maxent_loss(own, others, pool.mask, config.beta, config.include_demonstration)
    elif config.objective == "bradley_terry":
        main = bradley_terry_loss(own, others, pool.mask, config.beta)
    elif config.objective == "classifier":
        main = classifier_loss(own, others, balanced_weights(pool.mask, pool.right), pool.right, config.beta)
    else:
        main = linear_loss(own, others, pool.mask, config.l2)
    return main + config.centre * centring_penalty(own, others, pool.mask)


def labelled_losses(model: Any, labelled: LabelledRows, pool: Pool, config: RewardsConfig) -> torch.Tensor:
    """Return the loss of every labelled item, (L,), differentiable.

    What is labelled on one side alone is compared with a level. The objective `classifier` learns log-odds, whose level
    is 0; the others see differences, so that the level is taken half-way between the mean rewards of demonstrations and
    of completions in the pool, as a constant: no gradient reaches the pool through it.

    Args:
        model: the head.
        labelled: L items.
        pool: prompts of the same step.
        config: objective and beta.
    """
    level = torch.zeros(())
    if config.objective != "classifier":
        with torch.no_grad():
            own, others = pool_rewards(model, pool)
            others = others[pool.mask & ~pool.corrupted]
            level = (own.mean() + (others.mean() if len(others) else own.mean())) / 2
    return labelled_loss(labelled.rewards(model), labelled.right, labelled.wrong, level, config.beta)


def _train(
    model: Any,
    sets: tuple[Material, Material],
    config: RewardsConfig,
    reporter: Reporter,
    *,
    streams: bool,
    slow: bool,
) -> tuple[list[Epoch], int]:
    """Fit a head on the training rows; return the curve and the epoch with the lowest loss on the validation rows."""
    patience, said_every = (SLOW_PATIENCE, 1) if slow else (PATIENCE, _SAID_EVERY)
    train, validation = sets
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    curve: list[Epoch] = []
    best, kept = Epoch(0, math.inf, math.inf, 0.0), copy.deepcopy(model.state_dict())
    for number in range(1, config.epochs + 1):
        said = _Said(reporter, f"{model.category}, epoch {number} of {config.epochs}: prompts") if slow else None
        loss = _epoch(model, train, optimiser, config, said)
        point = Epoch(number, loss, *_validate(model, validation, config))
        curve.append(point)
        if streams and (number == 1 or number % said_every == 0):
            reporter.metrics(number, {k: v for k, v in dataclasses.asdict(point).items() if k != "epoch"})
        if not (math.isfinite(point.train_loss) and math.isfinite(point.validation_loss)):
            section = "rewards.adapter" if config.backbone == "adapter" else "rewards"
            raise TrainingError(
                f"{model.category}: the reward loss is not finite in epoch {number} (training {point.train_loss}, "
                f"validation {point.validation_loss}); lower {section}.learning_rate ({config.learning_rate}) "
                f"or raise rewards.beta ({config.beta})"
            )
        if point.validation_loss < best.validation_loss:
            best, kept = point, copy.deepcopy(model.state_dict())
        elif number - best.epoch >= patience:
            break
    model.load_state_dict(kept)
    model.eval()
    reporter.log(
        f"{model.category}: epoch {best.epoch} of {len(curve)} kept, validation loss {best.validation_loss:.3f}, "
        f"accuracy {best.validation_accuracy:.1%}"
    )
    return curve, best.epoch


class _Said(NamedTuple):
    """Who is told how far an epoch is, and in what words."""

    reporter: Reporter
    what: str


def _epoch(
    model: Any, train: Material, optimiser: torch.optim.Optimizer, config: RewardsConfig, said: _Said | None
) -> float:
    model.train()
    total, count, done = 0.0, len(train.pool.prompts), 0
    order = torch.randperm(count).split(config.batch_size)
    turns = _in_turn(train.labelled, config.batch_size)
    for rows, labelled in zip(order, turns, strict=False):  # the labelled items begin again as often as need be
        parts = list(model.parts(train.pool, rows)) if hasattr(model, "parts") else [rows]
        optimiser.zero_grad()
        for number, part in enumerate(parts, start=1):
            pool = train.pool.part(part)
            batch = losses(model, pool, config)
            loss = batch.mean() * (len(part) / len(rows))  # the gradients of the parts add up to that of the step
            total += float(batch.detach().sum())
            if labelled is not None and number == len(parts):
                beside = config.label_weight * labelled_losses(model, labelled, pool, config).mean()
                loss = loss + beside
                total += float(beside.detach()) * len(rows)
            loss.backward()
        optimiser.step()
        done += len(rows)
        if said is not None:
            said.reporter.progress(said.what, done, count)
    return total / count


def _in_turn(labelled: LabelledRows | None, size: int) -> Iterator[LabelledRows | None]:
    """Yield batches of labelled items without end, in a new random order for each pass; None where there are none."""
    while labelled is None:
        yield None
    while True:
        yield from (labelled.part(rows) for rows in torch.randperm(len(labelled)).split(size))


@torch.no_grad()
def _validate(model: Any, rows: Material, config: RewardsConfig) -> tuple[float, float]:
    model.eval()
    pool = rows.pool
    own, others = pool_rewards(model, pool)
    ahead = (own.unsqueeze(1) > others)[pool.mask & ~pool.corrupted]
    loss = float(losses_of(own, others, pool, config).mean())
    if rows.labelled is not None:
        loss += config.label_weight * float(labelled_losses(model, rows.labelled, pool, config).mean())
    return loss, float(ahead.float().mean()) if len(ahead) else 0.0


@torch.no_grad()
def _settle(model: Any, train: Pool) -> None:
    """Take worst, mean and scale over the training pool, with the rewards as they will be given."""
    own, others = (values.double() for values in pool_rewards(model, train))
    worst = float(torch.cat([own, others[train.mask & ~train.corrupted]]).min())
    model.normalisation = dataclasses.replace(model.normalisation, worst=worst, mean=0.0, scale=1.0)
    inputs, users, answers = train.rows()
    mean, scale = mean_and_scale(model.rewards_of(*inputs, users, answers), model.category)
    model.normalisation = dataclasses.replace(model.normalisation, mean=mean, scale=scale)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _usable(pool: Pool, what: str) -> Pool:
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
