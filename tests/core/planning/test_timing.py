"""Operations and seconds, counted by hand."""

import pytest
from shapes import TARGETS, hand_shape

from drirl_core.planning.gpus import Gpu
from drirl_core.planning.passes import Batch, Numbers, Trained
from drirl_core.planning.timing import Rates, forward_flops, sampling_seconds, training_flops, training_seconds

GPU = Numbers(True, 2)
FREE = Rates(training=0.5, forward=0.5, memory=0.5, layer_s=0.0, adapter_s=0.0)


def test_the_host_bounds_a_small_training_step() -> None:
    card, slow = Gpu("card", 1, flops=1e30, bandwidth=1e30), Rates(layer_s=0.001, adapter_s=0.0001, training_host=4.0)
    took = training_seconds(hand_shape(), Trained(1, TARGETS, 2), Batch(1, 3, 2), 2, card, GPU, slow)
    assert took == pytest.approx(4 * (0.002 + 14 * 0.0001))


def test_two_operations_per_weight_and_four_per_pair_and_query_column() -> None:
    # 260 weights of the layers and the final norm for 10 tokens, a head of 40 for 4, pairs 2 x 25 in two layers.
    assert forward_flops(hand_shape(), 10, 4, 50) == 2 * 260 * 10 + 2 * 40 * 4 + 4 * 4 * 50 * 2
    assert forward_flops(hand_shape(), 10, 0, 0, layers=1) == 2 * 260 * 10 / 2


def test_adapters_need_no_gradients_of_frozen_weights() -> None:
    batch = Batch(2, 3, 2)
    adapters, every = Trained(1, TARGETS, 2), Trained()
    attention = 4 * 4 * 50 * 2 * 4
    assert training_flops(hand_shape(), adapters, GPU, batch, 4) == 3 * 5200 + 3 * 320 + 6 * 116 * 10 + attention
    assert training_flops(hand_shape(), every, GPU, batch, 4) == 4 * 5200 + 4 * 320 + attention


def test_a_pass_takes_its_operations_over_what_is_reached() -> None:
    card = Gpu("card", 1, flops=1000.0, bandwidth=1000.0)
    flops = training_flops(hand_shape(), Trained(), GPU, Batch(2, 3, 2), 4)
    assert training_seconds(hand_shape(), Trained(), Batch(2, 3, 2), 4, card, GPU, FREE) == pytest.approx(flops / 500)


def test_sampling_reads_the_weights_and_moves_the_cache_for_every_token() -> None:
    card = Gpu("card", 1, flops=1e30, bandwidth=1000.0)
    # 300 weights of 2 bytes and 3 x 3 rows x (5 + 8 / 2) tokens x 16 bytes of cache, 8 times, at 500 bytes per second
    moved = 600 + 3 * 3 * 9 * 16
    assert sampling_seconds(hand_shape(), Batch(3, 5, 8), card, GPU, FREE) == pytest.approx(8 * moved / 500)


def test_the_host_is_the_least_that_a_token_takes() -> None:
    card = Gpu("card", 1, flops=1e30, bandwidth=1e30)
    slow = Rates(layer_s=0.001, adapter_s=0.0001)
    plain = sampling_seconds(hand_shape(), Batch(3, 5, 8), card, GPU, slow)
    adapted = sampling_seconds(hand_shape(), Batch(3, 5, 8), card, GPU, slow, Trained(1, TARGETS, 2))
    assert plain == pytest.approx(0.002 + 8 * 0.002)
    assert adapted == pytest.approx(0.002 + 8 * (0.002 + 14 * 0.0001))
