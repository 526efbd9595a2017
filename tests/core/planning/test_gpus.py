"""Cards by name, with counts and sizes."""

import pytest

from drirl_core.errors import ConfigError
from drirl_core.planning.gpus import GIB, GPUS, gpu_named


def test_a_card_has_memory_speed_and_bandwidth() -> None:
    card = gpu_named("H100:8")
    assert (card.name, card.count) == ("h100", 8)
    assert card.memory == 81559 * 1024**2
    assert card.usable == int(0.92 * card.memory)
    assert (card.flops, card.bandwidth) == (989e12, 3.35e12)


def test_cards_have_other_names() -> None:
    assert gpu_named("a100").name == "a100-80"
    assert gpu_named("4090").name == "rtx4090"


def test_a_size_has_memory_and_no_speed() -> None:
    card = gpu_named("24GiB:2")
    assert (card.memory, card.count, card.timed) == (24 * GIB, 2, False)
    assert gpu_named("24gb").memory == 24 * 10**9


def test_cpu_is_no_card() -> None:
    assert gpu_named("cpu") is None


@pytest.mark.parametrize(
    ("text", "said"), [("h10", "did you mean 'h100'"), ("h100:0", "h100:8"), ("0GiB", "24GiB"), ("h100:x", "how many")]
)
def test_what_is_no_card_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gpu_named(text)


def test_every_card_is_timed() -> None:
    assert all(card.timed and card.name == name for name, card in GPUS.items())
