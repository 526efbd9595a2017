"""Time of one pass: counted operations and bytes over what a card reaches, and the time that the host needs at least.

A pass waits for whichever is slowest: arithmetic, memory, or Python, which starts the kernels of each layer one by one.
Sampling a few rows is bound by Python, which is why its time per token hardly depends on the card.
"""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.planning.gpus import Gpu
from drirl_core.planning.passes import Batch, Numbers, Trained, cache_per_token, frozen_bytes
from drirl_core.planning.shape import ModelShape


@dataclass(frozen=True)
class Rates:
    """What is reached of a card's data sheet, and what the host needs.

    Args:
        training: share of the arithmetic in a training pass with checkpointing.
        forward: share of the arithmetic in a pass without gradients.
        memory: share of the bandwidth.
        layer_s: seconds in which the host starts one decoder layer.
        adapter_s: seconds in which it starts one adapter.
        training_host: host time of a forward and backward pass over that of a forward pass.
    """

    training: float = 0.37
    forward: float = 0.38
    memory: float = 0.70
    layer_s: float = 1.4e-3
    adapter_s: float = 0.19e-3
    training_host: float = 4.5


RATES = Rates()
"""Read from benchmarks/results/memory_plan_gpu.json (H200, 8B): `training` from the SFT step of 6,144 tokens, `forward`
and `layer_s` from reading a middle layer of 3,840 and of 1,536 tokens, in two passes each, `adapter_s` from rollouts,
which took 88 ms per token, `training_host` from the small SFT step; `memory` was never the bound, and is an assumption.
Sampling from the frozen model is left out: it took 90 ms per token with cuDNN's attention, which is off since."""
_CACHE_TRAFFIC = 3
"""A cache that grows by copying is read, written, and read again by the attention, for every token."""


def forward_flops(shape: ModelShape, tokens: int, scored: int, pairs: int, layers: int | None = None) -> float:
    """Count the operations of a forward pass.

    Args:
        shape: the model.
        tokens: that go through the layers.
        scored: tokens that go through the output layer.
        pairs: of a query and a key, per layer.
        layers: decoder layers; None for all.
    """
    share = 1.0 if layers is None else layers / shape.layers
    weights = 2.0 * shape.in_layers * share * tokens + 2.0 * shape.head * scored
    return weights + 4.0 * shape.queries * pairs * shape.layers * share


def training_flops(shape: ModelShape, what: Trained, numbers: Numbers, batch: Batch, scored: int) -> float:
    """Count the operations of a forward and backward pass, with the layers computed again where they are checkpointed.

    Gradients of activations cost as much as the forward pass, those of trained weights as much again; attention costs
    twice its forward pass.
    """
    tokens, pairs = batch.tokens(numbers), batch.scores(numbers)
    layers = 2.0 * shape.in_layers * tokens * (2 + numbers.gpu + (what.rank == 0))
    head = 2.0 * shape.head * scored * (3 + (what.rank == 0))
    adapters = 6.0 * shape.adapter_weights(what.rank, what.targets, what.layers) * tokens if what.rank else 0.0
    return layers + head + adapters + 4.0 * shape.queries * pairs * shape.layers * (3 + numbers.gpu)


def training_seconds(
    shape: ModelShape, what: Trained, batch: Batch, scored: int, gpu: Gpu, numbers: Numbers, rates: Rates = RATES
) -> float:
    """Return the seconds of one forward and backward pass."""
    arithmetic = training_flops(shape, what, numbers, batch, scored) / (gpu.flops * _speed(numbers) * rates.training)
    return max(arithmetic, rates.training_host * _host_seconds(shape, what, rates))


def forward_seconds(
    shape: ModelShape,
    batch: Batch,
    scored: int,
    gpu: Gpu,
    numbers: Numbers,
    rates: Rates = RATES,
    layers: int | None = None,
) -> float:
    """Return the seconds of one pass without gradients."""
    flops = forward_flops(shape, batch.rows * batch.width, scored, batch.rows * batch.width**2, layers)
    host = (shape.layers if layers is None else layers) * rates.layer_s
    return max(flops / (gpu.flops * _speed(numbers) * rates.forward), host)


def sampling_seconds(
    shape: ModelShape,
    batch: Batch,
    gpu: Gpu,
    numbers: Numbers,
    rates: Rates = RATES,
    unmerged: Trained | None = None,
) -> float:
    """Return the seconds of sampling one batch to its length limit.

    Args:
        shape: the model.
        batch: the rows; `completion` is the number of tokens that each gets.
        gpu: the card.
        numbers: how it computes.
        rates: what is reached of it.
        unmerged: adapters that are computed beside the weights.
    """
    prompt = forward_seconds(shape, Batch(batch.rows, batch.prompt, 0), batch.rows, gpu, numbers, rates)
    host = _host_seconds(shape, unmerged or Trained(0, (), 0), rates)
    weights = frozen_bytes(shape, numbers) - shape.embedding * numbers.size
    middle = batch.prompt + batch.completion / 2
    moved = weights + _CACHE_TRAFFIC * batch.rows * middle * cache_per_token(shape, numbers)
    arithmetic = forward_flops(shape, batch.rows, batch.rows, int(batch.rows * middle))
    step = max(host, moved / (gpu.bandwidth * rates.memory), arithmetic / (gpu.flops * _speed(numbers) * rates.forward))
    return prompt + batch.completion * step


def _speed(numbers: Numbers) -> float:
    """Return the speed of arithmetic beside bfloat16; float32 with TensorFloat-32 off runs outside the tensor cores."""
    return 1.0 if numbers.size == 2 else 1 / 16


def _host_seconds(shape: ModelShape, what: Trained, rates: Rates) -> float:
    adapters = sum(what.adapts(name) for name, _, _ in shape.linear) * what.layers
    return shape.layers * rates.layer_s + adapters * rates.adapter_s
