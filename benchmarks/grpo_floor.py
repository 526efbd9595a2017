"""The phases of our GRPO step, and the floor of each from the tokens that it met; see benchmarks/floor.py.

Sampling, the passes without gradients (log-probabilities of the reference, and of the policy where TRL asks for them),
rewards and alpha, the forward and the backward pass of the update, and the rest, which has no floor. Passes of the
reward backbone `adapter` are not counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from benchmarks.floor import (
    Floor,
    Rates,
    Row,
    Tokens,
    Work,
    backward,
    decoding,
    encoding,
    forward,
    predicted,
    product_rates,
    read,
)
from benchmarks.phases import BACKWARD, FORWARD, STEP, PhaseClock, with_step
from drirl_core.models import hidden_states
from drirl_core.models.embeddings import Embedder
from drirl_core.planning.passes import Numbers, Trained
from drirl_core.planning.shape import ModelShape

SAMPLING, LOG_PROBABILITIES, REWARDS = "sampling", "log_probabilities", "rewards_and_alpha"


@dataclass(frozen=True)
class Encoder:
    """What the sentence encoder costs.

    Args:
        weights: of its linear layers.
        hidden: width of its states.
        layers: how many there are.
        rates: operations per second of its products in float32.
    """

    weights: int
    hidden: int
    layers: int
    rates: Mapping[str, float]

    @classmethod
    def of(cls, encoder: Any, device: str) -> Encoder:
        """Count and measure an encoder.

        Args:
            encoder: a `SentenceTransformer` of a BERT.
            device: where it computes.
        """
        model = encoder[0].auto_model
        linear = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)]
        widths = dict.fromkeys((module.in_features, module.out_features) for module in linear)
        return cls(
            sum(module.weight.numel() for module in linear),
            model.config.hidden_size,
            model.config.num_hidden_layers,
            product_rates(widths, torch.float32, device),
        )


@contextmanager
def watched(trainer: Any, clock: PhaseClock) -> Iterator[None]:
    """Time the phases of a GRPO trainer in the block, and note the tokens that they meet."""

    def sampled(result: Any, prompts: Sequence[Sequence[int]], *arguments: Any, **named: Any) -> None:
        clock.note("rows", (prompts, result[0]))

    score, read_layer, embed = (
        trainer._get_per_token_logps_and_entropies,
        hidden_states.read_layer,
        Embedder._compute,
    )

    def without_gradients(*arguments: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():  # inside the forward pass of the update
            return score(*arguments, **named)
        with clock.phase(LOG_PROBABILITIES):
            found = score(*arguments, **named)
        clock.note("passes", 1)
        return found

    def noted_states(policy: Any, prompts: Any, completions: Any, layer: int) -> Any:
        clock.note("read", (prompts, completions, layer))
        return read_layer(policy, prompts, completions, layer)

    def noted_texts(embedder: Any, missing: dict[str, str], reporter: Any) -> None:
        embed(embedder, missing, reporter)
        clock.note("encoded", (embedder._encoder, list(missing.values())))

    clock.timed(trainer, "_generate_single_turn", SAMPLING, sampled)
    clock.timed(trainer, "_calculate_rewards", REWARDS)
    clock.time_update(trainer)
    trainer._get_per_token_logps_and_entropies = without_gradients
    with (
        mock.patch.object(hidden_states, "read_layer", noted_states),
        mock.patch.object(Embedder, "_compute", noted_texts),
    ):
        yield


def floors_of(
    clock: PhaseClock, shape: ModelShape, numbers: Numbers, what: Trained, rates: Rates, device: str, *, later: bool
) -> tuple[list[dict[str, Floor]], dict[str, Any]]:
    """Return the floor of each phase of each step; the encoder's rates where it was used, and more about the floors.

    Args:
        clock: of a training that is over.
        shape: the policy.
        numbers: bytes of its weights.
        what: is trained.
        rates: of the machine.
        device: where the encoder computes.
        later: whether updates begin at the first adapted layer, with what the reference left there.
    """
    noted = [one for _, one in clock.steps]
    encoder = next((Encoder.of(model, device) for one in noted for model, _ in one.get("encoded", [])), None)
    found, twice = [], []
    for one in noted:
        rows = [
            Row(tuple(prompt), len(completion))
            for prompts, completions in one["rows"]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        tokens = predicted(rows)
        below = forward(shape, numbers, Tokens(tokens.computed, 0, tokens.pairs), layers=shape.layers - what.layers)
        work = {
            SAMPLING: decoding(shape, numbers, rows),
            LOG_PROBABILITIES: forward(shape, numbers, tokens).times(sum(one.get("passes", []))),
            FORWARD: forward(shape, numbers, tokens, what=what).without(below if later else Work(0.0, 0.0)),
            BACKWARD: backward(shape, numbers, tokens, what),
        }
        floors = {name: each.floor(rates) for name, each in work.items()}
        floors[REWARDS] = _states(one.get("read", []), shape, numbers).floor(rates)
        if encoder:
            floors[REWARDS] += _texts(one.get("encoded", []), encoder).floor(Rates(encoder.rates, rates.memory))
        found.append(with_step(floors))
        twice.append(found[-1][STEP].seconds + (below.floor(rates).seconds if later else 0.0))
    more = {"encoder": Rates(encoder.rates, {}).record()["billion_operations_per_s"]} if encoder else {}
    # What two passes compute the same counts once in the floors, and twice in the method as it is written.
    return found, more | ({"step_floor_as_written_s": round(statistics.median(twice), 3)} if later else {})


def _states(notes: Sequence[Any], shape: ModelShape, numbers: Numbers) -> Work:
    """Count the reading of a middle layer: equal rows once, and prompts once in all calls of a step."""
    if not notes:
        return Work(0.0, 0.0)
    distinct = {
        (tuple(prompt), tuple(completion))
        for prompts, completions, _ in notes
        for prompt, completion in zip(prompts, completions, strict=True)
    }
    rows = [Row(prompt, len(completion)) for prompt, completion in distinct]
    return forward(shape, numbers, read(rows), layers=max(layer for _, _, layer in notes))


def _texts(notes: Sequence[Any], encoder: Encoder) -> Work:
    lengths = [
        len(ids)
        for model, texts in notes
        for ids in model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    ]
    return encoding(encoder.weights, encoder.hidden, encoder.layers, lengths)
