"""Memory of one pass through the model: training, sampling, and reading a middle layer.

The formulas follow the code that runs, tensor by tensor. What one token keeps in a layer for the backward pass is what
autograd saves there: an operation with a frozen weight keeps nothing of its input. Letters: n tokens, H hidden width, Q
and K widths of all query and all key heads, F width of the feed-forward part, V vocabulary, e bytes per number.

On a GPU, TRL trains with gradient checkpointing (one hidden state per layer and token is kept, and a layer is computed
again in the backward pass), fused attention, and bfloat16 autocast, under which PEFT gives each adapter an input of its
own. On a CPU neither is used, attention is computed in full, and the prompt of a group is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.models.quantization import BYTES_PER_WEIGHT
from drirl_core.planning.parts import Parts
from drirl_core.planning.shape import READS, ModelShape

FLOAT32 = 4
_TILE_ROWS, _TILE_COLUMNS = 4096, 32768
"""A tile of logits in TRL on a GPU: trl.kernels.chunked_logprob and trl.trainer.utils."""
_CPU_TILE_ROWS, _CPU_TILE_COLUMNS, _CPU_TILE_BYTES = 512, 1024, 28
"""The same on a CPU (policy/cpu.py); bytes per entry: the tile, and six results in float32 that are alive together."""


_GATHERED_LAYERS = 3
"""Decoder layers in memory at once where weights are sharded."""


@dataclass(frozen=True)
class Numbers:
    """How a device computes.

    Args:
        gpu: whether it is a GPU.
        size: e, bytes of a frozen weight and of an activation: 2 for bfloat16, 4 for float32.
        four_bits: whether the frozen weights of the layers are held in four bits each.
    """

    gpu: bool
    size: int
    four_bits: bool = False

    def of_layers(self, weights: int) -> int:
        """Return the bytes of so many frozen weights of linear layers."""
        return round(weights * (BYTES_PER_WEIGHT if self.four_bits else self.size))


@dataclass(frozen=True)
class Trained:
    """What a training changes.

    Args:
        rank: of the adapters; 0 for all weights.
        targets: names of the adapted linear layers.
        layers: decoder layers with adapters, counted from the last one.
        trainer: whether TRL trains it: on a GPU with autocast and checkpointing. The reward backbone `adapter` has
            neither: its adapters compute in float32, and the adapted layers keep what the backward pass needs.
    """

    rank: int = 0
    targets: tuple[str, ...] = ()
    layers: int = 0
    trainer: bool = True

    def adapts(self, name: str) -> bool:
        """Whether a linear layer has adapters."""
        return self.rank > 0 and name in self.targets

    def learns(self, name: str) -> bool:
        """Whether the input of a linear layer is needed for a gradient of weights."""
        return self.rank == 0 or name in self.targets


@dataclass(frozen=True)
class Batch:
    """Rows of one pass, padded.

    Args:
        rows: B.
        prompt: columns of the prompts.
        completion: columns of the completions.
        distinct: different prompts among the rows; on a CPU each is computed once in GRPO.
    """

    rows: int
    prompt: int
    completion: int
    distinct: int = 0

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self.prompt + self.completion

    def tokens(self, numbers: Numbers) -> int:
        """Count the tokens that go through the layers."""
        if numbers.gpu or not self.distinct:
            return self.rows * self.width
        return self.distinct * self.prompt + self.rows * self.completion

    def scores(self, numbers: Numbers) -> int:
        """Count pairs of a query and a key, per head."""
        if numbers.gpu or not self.distinct:
            return self.rows * self.width**2
        return self.distinct * self.prompt**2 + self.rows * self.completion * self.width

    def attended(self, numbers: Numbers) -> int:
        """Count the tokens whose keys and values a layer holds for the backward pass."""
        if numbers.gpu or not self.distinct:
            return self.rows * self.width
        return self.distinct * self.prompt + self.rows * self.width


def loaded(shape: ModelShape, numbers: Numbers, copies: int = 0) -> Parts:
    """Return the memory of a frozen model, and of further copies of equal size.

    Weights of four bits are multiplied as a copy in the type of the activations, one layer after the other.
    """
    weights = frozen_bytes(shape, numbers)
    widest = max((into * out for _, into, out in shape.linear), default=0) if numbers.four_bits else 0
    return Parts(weights=weights, other_models=copies * weights, activations=numbers.size * widest)


def sharded(shape: ModelShape, numbers: Numbers, shards: int) -> Parts:
    """Return the memory of a frozen model of which each process holds a part.

    Beside its part lie the layer that computes, the next one, the buffer in which that one was gathered, and the output
    layer, which stays gathered until its gradient is known.

    Args:
        shape: the model.
        numbers: the device.
        shards: processes among which the weights are divided.
    """
    layer = -(-shape.in_layers // shape.layers)
    gathered = numbers.size * (_GATHERED_LAYERS * layer + shape.head)
    return Parts(weights=min(frozen_bytes(shape, numbers), -(-frozen_bytes(shape, numbers) // shards) + gathered))


def frozen_bytes(shape: ModelShape, numbers: Numbers) -> int:
    """Return the bytes of a frozen model; embeddings, norms and output layer are never quantised."""
    in_linear = shape.layers * sum(into * out for _, into, out in shape.linear)
    return (shape.parameters - in_linear) * numbers.size + numbers.of_layers(in_linear)


def trained(shape: ModelShape, numbers: Numbers, what: Trained) -> Parts:
    """Return the memory of adapters, gradients and AdamW's two moments; adapters are float32 (PEFT's default)."""
    if what.rank == 0:
        weights = shape.parameters * numbers.size
        return Parts(gradients=weights, optimiser=2 * weights)
    adapters = FLOAT32 * shape.adapter_weights(what.rank, what.targets, what.layers)
    return Parts(adapters=adapters, gradients=adapters, optimiser=2 * adapters)


def kept_per_token(shape: ModelShape, numbers: Numbers, what: Trained) -> int:
    """Return the bytes that one layer with gradients keeps per token, keys, values and attention weights left out.

    Norms compute in float32 and keep their input so; with all weights trained also what is scaled. Feed-forward: the
    gate, its activation and the other branch, and their product where the last layer learns.
    """
    e, h, f = numbers.size, shape.hidden, shape.intermediate
    norms = 2 * FLOAT32 * h + (2 * e * h if what.rank == 0 else 0)
    # On a GPU every adapter converts its input, and so has one of its own; otherwise those of one input share it.
    own = what.rank > 0 and (numbers.gpu or not what.trainer)
    i = FLOAT32 if what.rank and not what.trainer else e
    inputs = sum(i * h * (sum(map(what.learns, names)) if own else any(map(what.learns, names))) for names in READS)
    attention = e * shape.queries * (1 + numbers.gpu) + (i * shape.queries if what.learns("o_proj") else 0)
    feed_forward = 3 * e * f + (i * f if what.learns("down_proj") else 0)
    ranks = i * what.rank * sum(what.adapts(name) for name, _, _ in shape.linear)
    return norms + inputs + attention + feed_forward + ranks


def _kept_by_attention(shape: ModelShape, numbers: Numbers, batch: Batch) -> int:
    """Return the bytes of keys and values, repeated for all query heads, and of attention weights, in one layer."""
    keys_and_values = 2 * numbers.size * shape.queries * batch.attended(numbers)
    if numbers.gpu:  # fused attention keeps one number per query
        return keys_and_values + FLOAT32 * shape.heads * batch.tokens(numbers)
    softmax = FLOAT32 + (numbers.size if numbers.size < FLOAT32 else 0)
    return keys_and_values + softmax * shape.heads * batch.scores(numbers)


def training_pass(shape: ModelShape, numbers: Numbers, what: Trained, batch: Batch, scored: int) -> Parts:
    """Return activations and logits of a forward and backward pass at their peak.

    Args:
        shape: the model.
        numbers: the device.
        what: what is trained.
        batch: the rows.
        scored: tokens whose log-probability is computed.
    """
    e, h, n = numbers.size, shape.hidden, batch.tokens(numbers)
    layer = n * kept_per_token(shape, numbers, what) + _kept_by_attention(shape, numbers, batch)
    working = n * (2 * e * shape.intermediate + 2 * e * h)  # gradients inside the feed-forward part
    if numbers.gpu and what.trainer:
        adapters = shape.adapter_weights(what.rank, what.targets, what.layers) if what.rank else 0
        base = shape.layers * n * e * h + adapters * e + batch.rows * batch.width**2  # checkpoints, casts, mask
        before_backward = n * h * (2 * e + FLOAT32)
        rows, columns = min(scored, _TILE_ROWS), min(shape.vocabulary, _TILE_COLUMNS)
        logits = e * rows * columns + scored * h * (2 * e + FLOAT32) + _gradient_of_head(shape, numbers, what)
        if before_backward + logits > layer + working:
            return Parts(activations=base + before_backward, logits=logits)
        return Parts(activations=base + layer + working)
    layers = what.layers if what.rank else shape.layers
    kept = layers * layer + n * h * (e + FLOAT32)
    scores = 0 if numbers.gpu else 2 * e * shape.heads * batch.scores(numbers)
    if not what.trainer:  # no logits; under float32 adapters the gradients inside a layer are float32 as well
        return Parts(activations=kept + max(working * FLOAT32 // e, scores))
    logits = _CPU_TILE_BYTES * min(scored, _CPU_TILE_ROWS) * min(shape.vocabulary, _CPU_TILE_COLUMNS)
    return Parts(
        activations=kept + max(working, scores),
        logits=logits + scored * h * (e + FLOAT32) + _gradient_of_head(shape, numbers, what),
    )


def _gradient_of_head(shape: ModelShape, numbers: Numbers, what: Trained) -> int:
    """Return the bytes of the output layer's gradient in float32 while it is summed; 0 where it is frozen."""
    return FLOAT32 * shape.head if what.rank == 0 and numbers.size < FLOAT32 else 0


def forward_per_token(shape: ModelShape, numbers: Numbers, width: int, unmerged: bool = False) -> int:
    """Return the bytes per token that are alive at the peak of a layer without gradients.

    Args:
        shape: the model.
        numbers: the device.
        width: keys per query.
        unmerged: whether float32 adapters are computed beside bfloat16 weights without autocast, as in TRL's sampling
            on a GPU: then input, product and sum of the second branch are float32.
    """
    e, h, f = numbers.size, shape.hidden, shape.intermediate
    feed_forward = 3 * e * f + 2 * e * h
    if unmerged:
        feed_forward = 2 * e * f + 2 * FLOAT32 * f + (2 * e + FLOAT32) * h
    heads = 5 * e * shape.queries + 2 * e * h
    scores = 0 if numbers.gpu else (2 * e + FLOAT32) * shape.heads * width
    return max(feed_forward, heads + scores)


def cache_per_token(shape: ModelShape, numbers: Numbers, layers: int | None = None) -> int:
    """Return the bytes of one token's keys and values in all layers, or in the first ones."""
    return 2 * shape.keys * numbers.size * (shape.layers if layers is None else layers)


LOGIT_COPIES = {"greedy": 4, "exact": 20, "trl": 16}
"""Bytes per entry of the vocabulary while a token is drawn, beside the logits themselves: a copy in float32; for the
inverse transform also probabilities, their sums in float64 and the answer; in TRL's sampling the scaled scores,
probabilities and the draw."""


def sampling_pass(
    shape: ModelShape, numbers: Numbers, batch: Batch, draws: str, unmerged: bool = False, computed: int | None = None
) -> Parts:
    """Return the memory of sampling at its peak, beside what is loaded.

    Args:
        shape: the model.
        numbers: the device.
        batch: the rows; `completion` is the length limit.
        draws: key into `LOGIT_COPIES`.
        unmerged: see `forward_per_token`.
        computed: tokens of prompts that are computed, where rows share them; None for all.
    """
    per_token = cache_per_token(shape, numbers)
    tokens = batch.rows * batch.prompt if computed is None else computed
    first = Parts(
        activations=tokens * forward_per_token(shape, numbers, batch.prompt, unmerged),
        kv_cache=batch.rows * batch.prompt * per_token,
    )
    # A cache grows by copying: of one layer the old and the new keys are there together.
    last = Parts(
        activations=batch.rows * batch.width * shape.keys * numbers.size,
        kv_cache=batch.rows * batch.width * per_token,
        logits=batch.rows * shape.vocabulary * (numbers.size + LOGIT_COPIES[draws]),
    )
    return max(first, last, key=lambda parts: parts.total)


def reading_pass(shape: ModelShape, numbers: Numbers, tokens: int, layers: int) -> Parts:
    """Return the memory of reading a middle layer of a batch of rows, beside what is loaded.

    Args:
        shape: the model.
        numbers: the device.
        tokens: padded tokens of the batch.
        layers: decoder layers that are computed.
    """
    per_token = forward_per_token(shape, numbers, 0) + 2 * FLOAT32 * shape.hidden
    return Parts(activations=tokens * per_token, kv_cache=tokens * cache_per_token(shape, numbers, layers))
