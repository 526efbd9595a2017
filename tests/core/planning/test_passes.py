"""Memory of passes, counted by hand for H = Q = 4, K = 2, F = 6, V = 10 and two layers."""

import pytest
from shapes import TARGETS, hand_shape

from drirl_core.planning.parts import Parts
from drirl_core.planning.passes import (
    Batch,
    Numbers,
    Trained,
    cache_per_token,
    forward_per_token,
    kept_per_token,
    loaded,
    reading_pass,
    sampling_pass,
    sharded,
    trained,
    training_pass,
)

GPU, CPU = Numbers(True, 2), Numbers(False, 4)
ADAPTERS = Trained(1, TARGETS, 2)


def test_parts_add_up_and_name_the_largest() -> None:
    both = Parts(weights=3, kv_cache=5) + Parts(weights=1)
    assert both == Parts(weights=4, kv_cache=5)
    assert (both.total, both.largest) == (9, "kv cache")


def test_a_frozen_model_and_its_copy() -> None:
    assert loaded(hand_shape(), GPU, 1) == Parts(weights=600, other_models=600)  # 300 weights of 2 bytes


def test_weights_of_four_bits() -> None:
    # 240 weights of linear layers at 0.5159 bytes are 124, the other 60 stay whole; the widest layer is expanded: 24 x 2.
    assert loaded(hand_shape(), Numbers(True, 2, True), 1) == Parts(weights=244, other_models=244, activations=48)


def test_weights_that_processes_hold_in_parts() -> None:
    """20 layers of 128 weights, 2,604 with head and norm: a quarter, three layers and the head, two bytes each."""
    deep = hand_shape(layers=20, parameters=20 * 128 + 44)
    layer = 129  # 128, and its share of the last norm, rounded up
    assert sharded(deep, GPU, 4) == Parts(weights=2 * 2604 // 4 + 2 * (3 * layer + 40))
    assert sharded(hand_shape(), GPU, 2) == loaded(hand_shape(), GPU)  # never more than all of them


def test_adapters_are_float32_with_gradients_and_two_moments() -> None:
    # rank 1, per layer: (4+4) + (4+2) + (4+2) + (4+4) + (4+6) + (4+6) + (6+4) = 58 weights, in two layers 116
    assert trained(hand_shape(), GPU, ADAPTERS) == Parts(adapters=464, gradients=464, optimiser=928)
    upper = Trained(1, ("q_proj",), 1)
    assert trained(hand_shape(), GPU, upper) == Parts(adapters=32, gradients=32, optimiser=64)


def test_full_fine_tuning_has_the_type_of_the_weights() -> None:
    assert trained(hand_shape(), GPU, Trained()) == Parts(gradients=600, optimiser=1200)


def test_what_a_layer_keeps_per_token() -> None:
    # Norms in float32: 2 x 4 x 4. Inputs of q, k, v, gate and up, 8 bytes each. Queries, output and the copy of it for
    # o: 3 x 8. Gate, activation, up and the product for down: 4 x 12. Seven results of rank 1: 14.
    assert kept_per_token(hand_shape(), GPU, ADAPTERS) == 32 + 40 + 24 + 48 + 14
    # Only q and v have adapters: two inputs, no copy for o, no product for down.
    assert kept_per_token(hand_shape(), GPU, Trained(1, ("q_proj", "v_proj"), 2)) == 32 + 16 + 16 + 36 + 4
    # On a CPU the inputs are shared: 4 bytes x 4 for q, k, v and for gate, up; queries and the last input of o.
    assert kept_per_token(hand_shape(), CPU, ADAPTERS) == 32 + 32 + 32 + 96 + 28


def test_reward_adapters_convert_their_inputs_to_float32_and_keep_every_adapted_layer() -> None:
    rewards = Trained(1, TARGETS, 1, trainer=False)
    # 32 for norms; five inputs of 16; queries and output 2 x 8 and 16 for o; 36 and 24 for down; seven ranks of 4.
    assert kept_per_token(hand_shape(), GPU, rewards) == 32 + 80 + 32 + 60 + 28
    found = training_pass(hand_shape(), GPU, rewards, Batch(2, 5, 0), 0)
    # One layer of 10 tokens with its keys and values, the last state, and gradients in float32.
    assert found == Parts(activations=10 * 232 + 160 + 80 + 10 * 4 * 6 + 10 * (2 * 2 * 6 + 16) * 2)


def test_a_training_pass_on_a_gpu_keeps_one_hidden_state_per_layer() -> None:
    batch = Batch(2, 3, 2)  # 10 tokens
    found = training_pass(hand_shape(), GPU, ADAPTERS, batch, scored=4)
    # Checkpoints 2 x 10 x 8, adapters in bfloat16 116 x 2, mask 2 x 25; a layer: 10 x 158, keys and values repeated for
    # four query columns 2 x 2 x 4 x 10, one float32 per query and head 4 x 2 x 10; gradients 10 x (2 x 2 x 6 + 2 x 2 x 4).
    assert found == Parts(activations=160 + 232 + 50 + 1580 + 160 + 80 + 400)


def test_the_logits_come_before_the_backward_pass_of_the_layers() -> None:
    wide = hand_shape(vocabulary=50_000, head=200_000, parameters=200_260)
    found = training_pass(wide, GPU, ADAPTERS, Batch(2, 3, 2), scored=4)
    # A tile of 4 rows and 32,768 columns, and of each scored token the hidden state, its gradient in float32 and in 2.
    assert found.logits == 4 * 32_768 * 2 + 4 * 4 * 8
    assert found.activations == 160 + 232 + 50 + 10 * 4 * 8


def test_a_group_shares_its_prompt_on_a_cpu() -> None:
    alone, grouped = Batch(4, 6, 2), Batch(4, 6, 2, distinct=1)
    assert (alone.tokens(CPU), grouped.tokens(CPU), grouped.tokens(GPU)) == (32, 14, 32)
    assert (alone.scores(CPU), grouped.scores(CPU)) == (4 * 64, 36 + 4 * 2 * 8)
    assert grouped.attended(CPU) == 6 + 32


def test_a_pass_without_gradients_holds_the_feed_forward_part() -> None:
    assert forward_per_token(hand_shape(), GPU, 8) == max(3 * 2 * 6 + 2 * 2 * 4, 5 * 2 * 4 + 16)
    # Unmerged adapters: two results in bfloat16, two sums and the input in float32.
    assert forward_per_token(hand_shape(), GPU, 8, unmerged=True) == 24 + 48 + 32
    # Attention in full on a CPU: 12 bytes per pair and head.
    assert forward_per_token(hand_shape(), CPU, 100) == 5 * 4 * 4 + 2 * 4 * 4 + 12 * 2 * 100


def test_the_cache_holds_keys_and_values_of_every_layer() -> None:
    assert cache_per_token(hand_shape(), GPU) == 2 * 2 * 2 * 2
    assert cache_per_token(hand_shape(), GPU, layers=1) == 8


def test_sampling_ends_with_the_longest_cache() -> None:
    found = sampling_pass(hand_shape(), GPU, Batch(3, 5, 60), "greedy")
    assert found == Parts(activations=3 * 65 * 2 * 2, kv_cache=3 * 65 * 16, logits=3 * 10 * (2 + 4))


def test_a_long_prompt_takes_more_than_what_follows() -> None:
    found = sampling_pass(hand_shape(), GPU, Batch(3, 100, 1), "greedy")
    assert found == Parts(activations=300 * 56, kv_cache=300 * 16)


def test_reading_stops_at_the_layer() -> None:
    assert reading_pass(hand_shape(), GPU, 50, 1).kv_cache == 50 * 8


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_memory_grows_with_the_micro_batch(micro: int) -> None:
    smaller, larger = (
        training_pass(hand_shape(), GPU, ADAPTERS, Batch(rows, 3, 2), scored=2 * rows).total
        for rows in (micro, 2 * micro)
    )
    assert smaller < larger
