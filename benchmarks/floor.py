"""The floor of a phase: the seconds that what must be computed takes at the rates which this machine reaches.

    floor = max(operations / operations per second, bytes / bytes per second)

Both rates are measured in the process that is timed, with the model's type and the run's threads: the fastest of its
own matrix products, and the fastest way through memory. Operations and bytes are those of an ideal implementation.
Tokens that rows have in common are computed once (what all prompts begin with, and the prompt of a group), nothing is
padded, no attention is computed and masked, the output layer sees only tokens whose successor is asked for, and between
two products nothing goes through memory. The passes themselves are given: that two of them compute the same is no part
of the floor. The counts of layers, weights and caches are those of `drirl plan` (drirl_core/planning); a multiply-add
is two operations.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from drirl_core.config import LoraConfig
from drirl_core.planning.passes import Numbers, Trained, cache_per_token, frozen_bytes, trained
from drirl_core.planning.shape import READS, ModelShape
from drirl_core.planning.timing import forward_flops

_TOKENS, _BUFFER, _REPEATS = 1024, 2**30, 7
"""Rows of a product that is timed; bytes of the buffer that is read, far more than caches hold; repeats."""


@dataclass(frozen=True)
class Rates:
    """What a machine reaches.

    Args:
        products: operations per second, by the widths of a linear layer.
        memory: bytes per second, by the way they go.
    """

    products: Mapping[str, float]
    memory: Mapping[str, float]

    @property
    def operations(self) -> float:
        """Operations per second of the fastest product: with a slower one the floor would be no floor."""
        return max(self.products.values())

    @property
    def bytes(self) -> float:
        """Bytes per second on the fastest way."""
        return max(self.memory.values())

    def record(self) -> dict[str, dict[str, float]]:
        """Return the rates in 10^9 per second, rounded."""
        return {
            "billion_operations_per_s": {name: round(rate / 1e9, 1) for name, rate in self.products.items()},
            "billion_bytes_per_s": {name: round(rate / 1e9, 1) for name, rate in self.memory.items()},
        }


def median_rates(found: Sequence[Rates]) -> Rates:
    """Return the median of each rate over several measurements."""
    return Rates(*(_medians([getattr(one, kind) for one in found]) for kind in ("products", "memory")))


def measured_rates(shape: ModelShape, dtype: torch.dtype, device: str) -> Rates:
    """Measure what the machine reaches with the products of a model: its linear layers and its output layer."""
    widths = [*((into, out) for _, into, out in shape.linear), (shape.hidden, shape.vocabulary)]
    return Rates(product_rates(dict.fromkeys(widths), dtype, device), memory_rates(device))


def product_rates(widths: Iterable[tuple[int, int]], dtype: torch.dtype, device: str) -> dict[str, float]:
    """Measure the operations per second of linear layers, the median of several products of many tokens.

    Args:
        widths: input and output widths.
        dtype: of both factors.
        device: where they lie.
    """
    rates = {}
    for into, out in widths:
        tokens = torch.randn(_TOKENS, into, dtype=dtype, device=device)
        weight = torch.randn(out, into, dtype=dtype, device=device)
        took = _median_seconds(lambda t=tokens, w=weight: torch.nn.functional.linear(t, w), device)
        rates[f"{into} x {out}"] = 2.0 * _TOKENS * into * out / took
    return rates


def memory_rates(device: str) -> dict[str, float]:
    """Measure the bytes per second of reading a large buffer and of copying one half over the other."""
    buffer = torch.ones(_BUFFER // 4, dtype=torch.float32, device=device)
    first, second = buffer.chunk(2)
    return {
        "read": _BUFFER / _median_seconds(buffer.sum, device),
        "copied": _BUFFER / _median_seconds(lambda: second.copy_(first), device),  # a half is read, a half written
    }


def _median_seconds(work: Callable[[], Any], device: str) -> float:
    taken = []
    with torch.inference_mode():
        for _ in range(_REPEATS + 1):
            started = time.perf_counter()
            work()
            synchronize(device)
            taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def synchronize(device: str) -> None:
    """Wait until a GPU has finished; a CPU always has."""
    if device == "cuda":
        torch.cuda.synchronize()


class Row(NamedTuple):
    """A prompt with a completion: the tokens of the prompt, and how many the completion has, its end token included."""

    prompt: tuple[int, ...]
    completion: int


@dataclass(frozen=True)
class Tokens:
    """What some rows need of a pass.

    Args:
        computed: tokens that go through the layers.
        scored: tokens that go through the output layer.
        pairs: of a query and a key that it sees, per layer and head.
    """

    computed: int
    scored: int
    pairs: int


def predicted(rows: Sequence[Row]) -> Tokens:
    """Count what the log-probabilities of completions need: a completion's last token predicts nothing.

    The first token of all completions of a prompt is predicted by one token, the last of the prompt.
    """
    fed = [Row(row.prompt, row.completion - 1) for row in rows if row.completion]
    found = _once(fed)
    return Tokens(found.computed, len({row.prompt for row in fed}) + sum(row.completion for row in fed), found.pairs)


def read(rows: Sequence[Row]) -> Tokens:
    """Count what the states of all tokens of prompts and completions need."""
    return _once(rows)


def _once(rows: Sequence[Row]) -> Tokens:
    prompts, common = _prompts(rows)
    computed, pairs = common, _pairs(0, common)
    for prompt in prompts:
        computed += len(prompt) - common
        pairs += _pairs(common, len(prompt))
    for row in rows:
        computed += row.completion
        pairs += _pairs(len(row.prompt), len(row.prompt) + row.completion)
    return Tokens(computed, 0, pairs)


def _prompts(rows: Iterable[Row]) -> tuple[set[tuple[int, ...]], int]:
    """Return the distinct prompts, and the number of tokens with which all of them begin."""
    prompts = {row.prompt for row in rows}
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return prompts, sum(1 for _ in same)


def _pairs(start: int, end: int) -> int:
    """Count pairs of the tokens at places `start` to `end` - 1 with themselves and those before them."""
    return (end * (end + 1) - start * (start + 1)) // 2


@dataclass(frozen=True)
class Work:
    """What a phase must do at least.

    Args:
        operations: two per multiply-add.
        bytes: that go through memory.
    """

    operations: float
    bytes: float

    def floor(self, rates: Rates) -> Floor:
        """Return the least time that it takes."""
        return Floor(max(self.operations / rates.operations, self.bytes / rates.bytes), self.operations, self.bytes)

    def without(self, part: Work) -> Work:
        """Return the work that is left where a part of it is done already."""
        return Work(self.operations - part.operations, self.bytes - part.bytes)

    def times(self, passes: int) -> Work:
        """Return the work of several equal passes."""
        return Work(passes * self.operations, passes * self.bytes)


@dataclass(frozen=True)
class Floor:
    """The least time of a phase, and what it was counted from.

    Args:
        seconds: of phases that follow each other the sum.
        operations: two per multiply-add.
        bytes: that go through memory.
    """

    seconds: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Floor) -> Floor:
        """Return the floor of one after the other."""
        return Floor(self.seconds + other.seconds, self.operations + other.operations, self.bytes + other.bytes)


def forward(
    shape: ModelShape, numbers: Numbers, tokens: Tokens, layers: int | None = None, what: Trained | None = None
) -> Work:
    """Count a forward pass, which reads the weights that it uses once.

    Args:
        shape: the model.
        numbers: bytes of its weights.
        tokens: that are computed.
        layers: decoder layers, counted from the first; None for all.
        what: adapters that are computed beside the weights; None for none.
    """
    adapters = _adapters(shape, what) if what else 0
    return Work(
        forward_flops(shape, tokens.computed, tokens.scored, tokens.pairs, layers) + 2.0 * adapters * tokens.computed,
        _weights(shape, numbers, layers, head=tokens.scored > 0) + 4.0 * adapters,
    )


def backward(shape: ModelShape, numbers: Numbers, tokens: Tokens, what: Trained) -> Work:
    """Count a backward pass and the optimiser's step.

    Gradients of activations cost what the forward pass does, and those of attention twice as much; they are needed
    down to the first adapted layer, whose input needs none. With all weights trained the gradients of weights cost as
    much again. What is trained, its gradients and the optimiser's moments are read and written once.

    Args:
        shape: the model.
        numbers: bytes of its weights.
        tokens: of the forward pass.
        what: adapters, or all weights.
    """
    layers = what.layers if what.rank else shape.layers
    operations = forward_flops(shape, tokens.computed, tokens.scored, 2 * tokens.pairs, layers)
    if what.rank:
        frozen = sum(into * out for name, into, out in shape.linear if name in READS[0])
        operations += (4.0 * _adapters(shape, what) - 2.0 * frozen) * tokens.computed
    else:
        operations += forward_flops(shape, tokens.computed, tokens.scored, 0)
    updated = 2.0 * trained(shape, numbers, what).total + (0 if what.rank else frozen_bytes(shape, numbers))
    return Work(operations, _weights(shape, numbers, layers, head=True) + updated)


def decoding(shape: ModelShape, numbers: Numbers, rows: Sequence[Row]) -> Work:
    """Count the sampling of completions, all rows together, each to its own length.

    Every token step reads the weights once, and the keys and values of the rows that still go on: those of a prompt
    once for all its completions. Each key and value is written once.
    """
    tokens, per_token = predicted(rows), cache_per_token(shape, numbers)
    steps = max((row.completion for row in rows), default=0)
    held = 0
    for step in range(1, steps):
        going = [row for row in rows if row.completion > step]
        prompts, common = _prompts(going)
        held += common + sum(len(prompt) - common for prompt in prompts) + step * len(going)
    moved = steps * _weights(shape, numbers, None, head=True) + per_token * (held + tokens.computed)
    return Work(forward_flops(shape, tokens.computed, tokens.scored, tokens.pairs), moved)


def encoding(weights: int, hidden: int, layers: int, lengths: Sequence[int]) -> Work:
    """Count the sentence encoder, which sees a text in both directions, in float32.

    Args:
        weights: of all its linear layers.
        hidden: width of its states.
        layers: how many there are.
        lengths: tokens of each text.
    """
    operations = 2.0 * weights * sum(lengths) + 4.0 * hidden * layers * sum(length**2 for length in lengths)
    return Work(operations, 4.0 * weights if lengths else 0.0)


def trained_by(lora: LoraConfig, shape: ModelShape) -> Trained:
    """Return what a training changes, its layers counted as by models/adapters.py."""
    if lora.rank == 0:
        return Trained()
    return Trained(lora.rank, lora.targets, shape.layers - math.ceil(lora.first_layer * shape.layers))


def _adapters(shape: ModelShape, what: Trained) -> int:
    return shape.adapter_weights(what.rank, what.targets, what.layers) if what.rank else 0


def _weights(shape: ModelShape, numbers: Numbers, layers: int | None, *, head: bool) -> float:
    """Return the bytes of the weights of some layers, of the output layer too where it is used."""
    share = 1.0 if layers is None else layers / shape.layers
    inside = frozen_bytes(shape, numbers) - numbers.size * (shape.head + shape.embedding)
    return inside * share + (numbers.size * shape.head if head else 0)


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}
