"""Floors of the benchmarks, counted by hand for the model of shapes.py with weights of two bytes."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shapes import TARGETS, hand_shape

from benchmarks import phases
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
    median_rates,
    predicted,
    product_rates,
    read,
    trained_by,
)
from benchmarks.phases import Measured, PhaseClock, over_floor, record, with_step
from benchmarks.sft_step import rows_of
from drirl_core.config import LoraConfig
from drirl_core.planning.passes import Numbers, Trained

HALF = Numbers(gpu=False, size=2)
UPPER = Trained(1, TARGETS, 1)
A, B = (1, 2, 3), (1, 2, 4, 5)
ROWS = [Row(A, 3), Row(A, 1), Row(B, 2)]
"""Two prompts that begin with the same two tokens, one of them with two completions."""
NEEDED = Tokens(computed=8, scored=5, pairs=27)


def test_what_rows_share_is_computed_once_and_a_last_token_predicts_nothing() -> None:
    # Tokens: 2 in common, then 1 and 2 of the prompts, then 2, 0 and 1 of the completions. Scored: the last token of two
    # prompts, and those three. Pairs: 1 + 2, then 3 and 3 + 4, then 4 + 5 and 5.
    assert predicted(ROWS) == NEEDED


def test_states_are_needed_of_the_last_token_too() -> None:
    # 5 tokens of prompts and 6 of completions; 3 + 3 + 7 pairs of prompts, 4 + 5 + 6, 4 and 5 + 6 of completions.
    assert read(ROWS) == Tokens(computed=11, scored=0, pairs=43)


def test_the_order_of_rows_changes_nothing_and_a_prompt_alone_is_its_own_beginning() -> None:
    assert {predicted(list(rows)) for rows in itertools.permutations(ROWS)} == {NEEDED}
    assert predicted([Row(A, 3)]) == Tokens(3 + 2, 1 + 2, 1 + 2 + 3 + 4 + 5)
    assert predicted([Row(A, 0)]) == Tokens(0, 0, 0)


def test_a_forward_pass_reads_each_weight_once() -> None:
    # 260 weights in the layers for 8 tokens, a head of 40 for 5, Q = 4 columns of 27 pairs in 2 layers.
    operations = 2 * 260 * 8 + 2 * 40 * 5 + 4 * 4 * 27 * 2
    assert forward(hand_shape(), HALF, NEEDED) == Work(operations, 2 * 300)
    # Adapters of rank 1 in the upper layer have 8 + 6 + 6 + 8 + 10 + 10 + 10 = 58 weights of four bytes.
    assert forward(hand_shape(), HALF, NEEDED, what=UPPER) == Work(operations + 2 * 58 * 8, 2 * 300 + 4 * 58)


def test_reading_a_middle_layer_leaves_out_the_layers_above_and_the_head() -> None:
    found = forward(hand_shape(), HALF, Tokens(11, 0, 43), layers=1)
    assert found == Work(2 * 130 * 11 + 4 * 4 * 43, 2 * 130)


def test_a_backward_pass_ends_at_the_first_adapted_layer() -> None:
    found = backward(hand_shape(), HALF, NEEDED, UPPER)
    # Gradients of activations in one layer and the head, twice the pairs; adapters twice; the inputs of its q, k and v
    # with 16 + 8 + 8 weights need none.
    assert found.operations == 2 * 130 * 8 + 2 * 40 * 5 + 4 * 4 * 54 + (4 * 58 - 2 * 32) * 8
    # One layer and the head; adapters, gradients and two moments in float32, read and written.
    assert found.bytes == 2 * (130 + 40) + 2 * 4 * (4 * 58)


def test_with_all_weights_trained_their_gradients_are_a_forward_pass_more() -> None:
    found = backward(hand_shape(), HALF, NEEDED, Trained())
    products = 2 * 260 * 8 + 2 * 40 * 5
    assert found.operations == 2 * products + 4 * 4 * 54 * 2
    # All weights are read, and with gradients and moments read and written: 600 + 600 + 2 x (600 + 1200).
    assert found.bytes == 600 + 600 + 2 * 1800


def test_decoding_reads_the_weights_for_every_token_step() -> None:
    found = decoding(hand_shape(), HALF, ROWS)
    assert found.operations == forward(hand_shape(), HALF, NEEDED).operations
    # Three steps. Keys and values, 16 bytes per token, are read by the second step for both prompts (5 tokens) and one
    # token of two completions, by the third for A and two tokens of one; those of 8 computed tokens are written.
    assert found.bytes == 3 * 600 + 16 * ((5 + 2) + (3 + 2)) + 16 * 8


def test_an_encoder_sees_a_text_in_both_directions() -> None:
    assert encoding(10, 4, 2, [3, 1]) == Work(2 * 10 * 4 + 4 * 4 * 2 * (9 + 1), 40)
    assert encoding(10, 4, 2, []) == Work(0, 0)


def test_the_slower_of_arithmetic_and_memory_is_the_floor_at_the_fastest_rates() -> None:
    rates = Rates({"4 x 4": 100.0, "4 x 6": 50.0}, {"read": 10.0, "copied": 8.0})
    assert Work(200, 10).floor(rates) == Floor(2.0, 200, 10)
    assert Work(200, 50).floor(rates) == Floor(5.0, 200, 50)
    assert Work(200, 10).floor(rates) + Work(200, 50).floor(rates) == Floor(7.0, 400, 60)
    assert Work(200, 50).times(2) == Work(400, 100)


def test_rates_of_several_rounds_are_medians_by_shape() -> None:
    found = median_rates([Rates({"a": value, "b": 1.0}, {"read": 10 * value}) for value in (3.0, 1.0, 2.0)])
    assert found == Rates({"a": 2.0, "b": 1.0}, {"read": 20.0})


def test_a_product_is_timed_per_shape() -> None:
    found = product_rates([(4, 6), (6, 4)], torch.float32, "cpu")
    assert list(found) == ["4 x 6", "6 x 4"]
    assert min(found.values()) > 0


def test_adapted_layers_are_counted_from_the_last() -> None:
    shape = hand_shape(layers=30)
    assert trained_by(LoraConfig(rank=16, first_layer=0.6), shape).layers == 12
    assert trained_by(LoraConfig(rank=0), shape) == Trained()


def test_rows_of_a_padded_batch_and_a_prompt_without_an_answer() -> None:
    batch = {
        "input_ids": torch.tensor([[0, 7, 8, 9, 0], [5, 6, 7, 8, 9], [0, 3, 4, 0, 0]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 9, -100], [-100, -100, -100, 8, 9], [-100] * 5]),
    }
    rows = rows_of(batch)
    assert rows == [Row((7, 8), 1), Row((5, 6, 7), 2), Row((3, 4), 1)]
    # The prompt without an answer: 2 tokens, 1 + 2 pairs, and its last token decides.
    assert predicted(rows[2:]) == Tokens(2, 1, 3)


def test_phases_and_the_rest_make_up_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()  # each look at the clock is a second later
    monkeypatch.setattr(phases.time, "perf_counter", lambda: float(next(now)))
    clock, noted = PhaseClock("cpu"), []
    trainer: Any = SimpleNamespace(
        compute_loss=lambda batch: 2 * batch, accelerator=SimpleNamespace(backward=lambda loss: None)
    )
    clock.time_update(trainer, lambda result, batch: noted.append((result, batch)))
    clock.on_train_begin()  # 0
    assert trainer.compute_loss(3) == 6  # 1 to 2
    trainer.accelerator.backward(6)  # 3 to 4
    clock.on_pre_optimizer_step()  # 5
    clock.on_optimizer_step()  # 6
    clock.note("rows", "one")
    clock.on_step_end()  # 7
    clock.on_step_end()  # 8
    assert noted == [(6, 3)]
    assert clock.steps == [
        ({"update_forward": 1.0, "update_backward": 2.0, "rest": 4.0, "step": 7.0}, {"rows": ["one"]}),
        ({"rest": 1.0, "step": 1.0}, {}),
    ]


def test_ratios_are_medians_over_steps_without_the_first() -> None:
    steps = [{"work": 50.0, "rest": 9.0, "step": 59.0}, {"work": 2.0, "rest": 1.0, "step": 3.0}, {"work": 4.0, "rest": 1.0, "step": 5.0}]  # fmt: skip
    floors = [with_step({"work": Floor(1.0, 2e9, 4e9), "more": Floor(1.0, 3e9)}) for _ in steps]
    counted = {"floor_s": 1.0, "billion_operations": 2.0, "billion_bytes": 4.0}
    assert over_floor(steps[1:], floors[1:]) == {
        "work": {"measured_s": 3.0, "over_floor": 3.0, **counted},
        "rest": {"measured_s": 1.0},
        "step": {"measured_s": 4.0, "floor_s": 2.0, "over_floor": 2.0, "billion_operations": 5.0, "billion_bytes": 4.0},
    }
    rates = Rates({"4 x 4": 2e9}, {"read": 3e9})
    found = record([Measured("torch.float32", steps, floors, rates, {"encoder": {"2 x 2": 1.0}})])
    assert found["phases"] == over_floor(steps[1:], floors[1:])
    assert (found["billion_operations_per_s"], found["billion_bytes_per_s"]) == ({"4 x 4": 2.0}, {"read": 3.0})
    assert found["encoder"] == {"2 x 2": 1.0}
