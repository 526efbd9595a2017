"""What the stages do with a model, in numbers: from works to phases with memory and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from drirl_core.planning.gpus import Gpu
from drirl_core.planning.parts import Parts
from drirl_core.planning.passes import (
    Batch,
    Numbers,
    Trained,
    loaded,
    reading_pass,
    sampling_pass,
    sharded,
    trained,
    training_pass,
)
from drirl_core.planning.shape import ModelShape
from drirl_core.planning.timing import RATES, Rates, forward_seconds, sampling_seconds, training_seconds

READ_TOKENS = 4096
"""Padded tokens that a middle layer is read for at once: models/hidden_states.py."""


@dataclass(frozen=True)
class Phase:
    """One part of a stage.

    Args:
        name: what is done, in words.
        parts: memory at its peak, everything that lies there included.
        seconds: all of it; None where times are not computed.
    """

    name: str
    parts: Parts
    seconds: float | None = None


@dataclass(frozen=True)
class Device:
    """Where the work is done.

    Args:
        shape: the model.
        numbers: how the device computes.
        gpu: the card; None to compute no times.
        rates: what is reached of it.
        shards: processes among which the frozen weights of a training are divided.
    """

    shape: ModelShape
    numbers: Numbers
    gpu: Gpu | None = None
    rates: Rates = RATES
    shards: int = 1

    @property
    def timed(self) -> Gpu | None:
        """The card, where times can be computed."""
        return self.gpu if self.gpu is not None and self.gpu.timed else None


def sampling(device: Device, batch: Batch, batches: float, draws: str, copies: int = 0) -> Phase:
    """Sample batches of completions from a frozen model.

    Args:
        device: model and card.
        batch: rows of one batch, with the longest prompt.
        batches: how many there are.
        draws: `exact` or `greedy`.
        copies: further models that lie there.
    """
    parts = loaded(device.shape, device.numbers, copies) + sampling_pass(device.shape, device.numbers, batch, draws)
    gpu = device.timed
    each = gpu and sampling_seconds(device.shape, batch, gpu, device.numbers, device.rates)
    return Phase("sampling", parts, None if each is None else batches * each)


def reading(device: Device, rows: float, width: int, layers: int, resident: Parts) -> Phase:
    """Read a middle layer for rows.

    Args:
        device: model and card.
        rows: how many there are.
        width: tokens per row.
        layers: decoder layers that are computed.
        resident: what lies there anyway.
    """
    tokens = max(READ_TOKENS, width)
    parts = resident + reading_pass(device.shape, device.numbers, tokens, layers)
    gpu = device.timed
    batch = Batch(max(1, READ_TOKENS // max(1, width)), width, 0)
    # Prompts and completions are two passes, so that the host starts every layer twice.
    each = gpu and max(
        forward_seconds(device.shape, batch, 0, gpu, device.numbers, device.rates, layers),
        2 * layers * device.rates.layer_s,
    )
    return Phase("hidden states", parts, None if each is None else rows / batch.rows * each)


@dataclass(frozen=True)
class Update:
    """One training, in steps of equal passes.

    Args:
        what: what is trained.
        batch: rows of one pass.
        scored: tokens per pass whose log-probability is computed.
        passes: how many passes there are.
        reference: whether each pass also computes the log-probabilities of the frozen start.
        separate_reference: whether the start is a second model, because there are no adapters to switch off.
    """

    what: Trained
    batch: Batch
    scored: int
    passes: float
    reference: bool = False
    separate_reference: bool = False


def training(device: Device, update: Update, copies: int = 0) -> Phase:
    """Run the passes of a training.

    Args:
        device: model and card.
        update: the training.
        copies: further models that lie there.
    """
    parts = resident_of(device, update, copies) + training_pass(
        device.shape, device.numbers, update.what, update.batch, update.scored
    )
    gpu, seconds = device.timed, None
    if gpu:
        given = (update.batch, update.scored, gpu, device.numbers, device.rates)
        seconds = training_seconds(device.shape, update.what, *given)
        seconds += forward_seconds(device.shape, *given) if update.reference else 0.0
        seconds *= update.passes
    return Phase("training", parts, seconds)


def resident_of(device: Device, update: Update, copies: int = 0) -> Parts:
    """Return what a training keeps in memory between its passes, gradients included."""
    copies += update.separate_reference
    frozen = loaded(device.shape, device.numbers, copies)
    if device.shards > 1:
        frozen = replace(frozen, weights=sharded(device.shape, device.numbers, device.shards).weights)
    return frozen + trained(device.shape, device.numbers, update.what)


def rollout(device: Device, update: Update, batch: Batch, steps: int, copies: int = 0) -> Phase:
    """Sample the completions of GRPO: all rows of a step at once, between two updates, so that no gradient is there.

    On a GPU, TRL's own sampler computes float32 adapters beside the weights; on a CPU they are merged, which keeps a
    copy of the weights that they change, and a prompt is computed once.

    Args:
        device: model and card.
        update: the training.
        batch: all rows of a step.
        steps: how many there are.
        copies: further models that lie there.
    """
    shape, numbers, what = device.shape, device.numbers, update.what
    lying = replace(resident_of(device, update, copies), gradients=0)
    if numbers.gpu:
        parts = lying + sampling_pass(shape, numbers, batch, "trl", unmerged=what.rank > 0 and numbers.size == 2)
    else:
        computed = (batch.distinct or batch.rows) * batch.prompt
        parts = lying + merged(device, what) + sampling_pass(shape, numbers, batch, "exact", computed=computed)
    gpu = device.timed
    each = gpu and sampling_seconds(shape, batch, gpu, numbers, device.rates, what if what.rank else None)
    return Phase("rollouts", parts, None if each is None else steps * each)


def merged(device: Device, what: Trained) -> Parts:
    """Return the copies of weights that are kept while adapters are merged for decoding (sampling/decode.py)."""
    if what.rank == 0 or device.shards > 1:
        return Parts()
    return Parts(other_models=device.numbers.size * device.shape.adapted_weights(what.targets, what.layers))
