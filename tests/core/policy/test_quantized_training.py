"""Training beside weights of four bits: adapters learn, and whole weights with the adapter are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drirl_core.models.loading import load_policy
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.sft import build_sft_checkpoint

pytestmark = pytest.mark.slow
FOUR_BITS = {"models.quantization": "4bit", "sft.lora": {"rank": 2}, "policy.lora": {"rank": 2}}


@pytest.fixture(autouse=True)
def _package(no_curves: None) -> None:
    pytest.importorskip("bitsandbytes")


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _require_whole_and_changed(before: Path, context: Any) -> None:
    """Check that what is published has the layers of the start, changed by the adapter beside them and no more."""
    start, now = _weights(before), _weights(context.out)
    assert start.keys() == now.keys()
    adapter = load_file(context.out / "adapter" / "adapter_model.safetensors")
    for name, weight in start.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in adapter:
            assert torch.equal(now[name], weight)
            continue
        lora = context.config.sft.lora
        change = adapter[f"{prefix}.lora_B.weight"].float() @ adapter[f"{prefix}.lora_A.weight"].float()
        assert change.abs().max() > 0
        torch.testing.assert_close(now[name] - weight, lora.alpha / lora.rank * change, rtol=1e-3, atol=1e-4)
    load_policy(context.out, context.config.models)


def test_the_start_learns(contexts: Any, tiny_policy: Path) -> None:
    context = contexts.make(
        "sft", {**FOUR_BITS, "sft.epochs": 3, "sft.learning_rate": 0.02, "sft.batch_size": 6, "sft.max_length": 256}
    )
    shown = build_sft_checkpoint(context)
    assert shown["last_loss"] < shown["first_loss"]
    _require_whole_and_changed(tiny_policy, context)


def test_the_policy_learns(contexts: Any, tiny_policy: Path) -> None:
    context = contexts.make("grpo", FOUR_BITS)
    build_policy_checkpoint(context)
    _require_whole_and_changed(tiny_policy, context)
