"""Adapters of two trainings, one after the other, are one adapter of the base model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from export_inputs import train
from transformers import AutoModelForCausalLM

from drirl_core.config import LoraConfig
from drirl_core.errors import ArtifactError
from drirl_core.export.adapter import why_none, write_joined

TOKENS = torch.arange(12).reshape(1, 12)


def outputs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_the_joined_adapter_gives_the_last_policy_from_the_base(policy: Callable[..., Path], tmp_path: Path) -> None:
    base = policy()
    first = train(base, tmp_path / "a" / "1", LoraConfig(rank=2, alpha=4, targets=("q_proj", "v_proj")), 1)
    lora = LoraConfig(rank=3, alpha=3, targets=("v_proj", "up_proj"), first_layer=0.5)
    second = train(first, tmp_path / "b" / "2", lora, 2)
    assert why_none([first, second]) is None
    write_joined([first, second], tmp_path / "adapter", "somebody/a-model")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (settings["r"], settings["base_model_name_or_path"]) == (5, "somebody/a-model")
    assert "model.layers.1.mlp.up_proj" in settings["target_modules"]
    assert "model.layers.0.mlp.up_proj" not in settings["target_modules"]
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    final = outputs(AutoModelForCausalLM.from_pretrained(second))
    torch.testing.assert_close(outputs(adapted), final, rtol=1e-4, atol=1e-4)
    assert (outputs(AutoModelForCausalLM.from_pretrained(first)) - final).abs().max() > 0.1


def test_one_adapter_stays_what_it_is(policy: Callable[..., Path], tmp_path: Path) -> None:
    base = policy()
    own = train(base, tmp_path / "own" / "1", LoraConfig(rank=2), 1)
    write_joined([own], tmp_path / "adapter", "base")
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    expected = outputs(AutoModelForCausalLM.from_pretrained(own))
    torch.testing.assert_close(outputs(adapted), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_without_one_is_named(policy: Callable[..., Path], tmp_path: Path) -> None:
    base = policy()
    own = train(base, tmp_path / "policy_checkpoint" / "1234", LoraConfig(rank=2), 1)
    old = tmp_path / "sft_checkpoint" / "abcd"
    old.mkdir(parents=True)
    assert "sft_checkpoint abcd holds none" in str(why_none([old, own]))
    (own / "adapter" / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be read"):
        why_none([own, own])
    with pytest.raises(ArtifactError, match="build its checkpoint again"):
        write_joined([own], tmp_path / "adapter", "base")


def test_scaled_otherwise_they_are_not_joined(policy: Callable[..., Path], tmp_path: Path) -> None:
    own = train(policy(), tmp_path / "own" / "1", LoraConfig(rank=2), 1)
    file = own / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"use_rslora": True}), encoding="utf-8")
    assert "not both plain LoRA" in str(why_none([own, own]))
