"""Weights of four bits: what is refused, that they are loaded, and that a joined adapter meets the unquantized weights."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from drirl_core.config import Config, DpoConfig, LoraConfig, ModelsConfig, PolicyConfig, RewardsConfig
from drirl_core.errors import ConfigError, ModelError
from drirl_core.models.adapters import peft_config
from drirl_core.models.loading import load_policy
from drirl_core.models.packages import quantization_problems
from drirl_core.models.quantization import BYTES_PER_WEIGHT, is_quantized, joined, quantized_loading
from drirl_core.models.sampling.decode import ready_to_decode

MODELS = ModelsConfig(policy="path:/none", encoder="path:/none", quantization="4bit")
CPU = torch.device("cpu")


def test_bytes_of_a_weight() -> None:
    """4 bits, 8 bits for 64 weights and 32 bits for 64 * 256: 4 + 0.125 + 0.002 bits."""
    assert pytest.approx(4 + 8 / 64 + 32 / (64 * 256)) == BYTES_PER_WEIGHT * 8


def test_full_fine_tuning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.lora\.rank is 0, .* set policy\.lora\.rank to a positive rank"):
        Config(models=MODELS, policy=PolicyConfig(lora=LoraConfig(rank=0)))
    Config(models=dataclasses.replace(MODELS, quantization="none"), policy=PolicyConfig(lora=LoraConfig(rank=0)))


@pytest.mark.parametrize("baseline", ["dpo", "dpo_s", "irft"])
def test_full_fine_tuning_on_pairs_is_refused_where_it_is_compared(baseline: str) -> None:
    """All three train with the adapters of `dpo`."""
    full = DpoConfig(lora=LoraConfig(rank=0))
    Config(models=MODELS, dpo=full)
    Config(models=MODELS, baselines=(baseline,))
    with pytest.raises(ConfigError, match=r"dpo\.lora\.rank is 0"):
        Config(models=MODELS, dpo=full, baselines=(baseline,))


def test_reward_adapters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.backbone is 'adapter'"):
        Config(models=MODELS, rewards=RewardsConfig(backbone="adapter"))


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(quantization_problems("none")) == []
    assert len(list(quantization_problems("4bit"))) == 1
    assert quantized_loading("none", CPU, torch.float32) == {}
    with pytest.raises(
        ModelError, match=r"needs the package bitsandbytes; install it with `pip install 'drirl\[4bit\]'`"
    ):
        quantized_loading("4bit", CPU, torch.float32)


def test_an_old_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None, origin="somewhere"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.45.3")
    with pytest.raises(ModelError, match=r"needs bitsandbytes 0\.46 or newer, not 0\.45\.3"):
        quantized_loading("4bit", CPU, torch.float32)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.46.1")
    assert list(quantization_problems("4bit")) == []


def test_a_folder_of_its_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder without a file, which can be imported, nor one of files that pip did not install."""
    (tmp_path / "bitsandbytes").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (problem,) = quantization_problems("4bit")
    (tmp_path / "bitsandbytes" / "__init__.py").touch()
    assert list(quantization_problems("4bit")) == [problem]
    (tmp_path / "bitsandbytes-0.46.1.dist-info").mkdir()
    (tmp_path / "bitsandbytes-0.46.1.dist-info" / "METADATA").write_text("Name: bitsandbytes\nVersion: 0.46.1\n")
    assert list(quantization_problems("4bit")) == []


def test_a_device_without_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(functional, "quantize_4bit", fail)
    with pytest.raises(ModelError, match=r"does not compute on cpu here \(no kernel image\); install a build"):
        quantized_loading("4bit", CPU, torch.float32)


@pytest.mark.slow
def test_a_joined_adapter_meets_the_unquantized_weights(tiny_policy: Path, tiny_models: ModelsConfig) -> None:
    pytest.importorskip("bitsandbytes")
    import peft
    from bitsandbytes.nn import Linear4bit

    policy = load_policy(tiny_policy, dataclasses.replace(tiny_models, quantization="4bit"))
    plain = load_policy(tiny_policy, tiny_models)
    assert is_quantized(policy.model)
    assert policy.key != plain.key
    assert not isinstance(policy.model.get_output_embeddings(), Linear4bit)
    adapted = peft.get_peft_model(policy.model, peft_config(LoraConfig(rank=2, alpha=4), 2))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad(), ready_to_decode(adapted):
        before = adapted(tokens).logits
    adapted(tokens).logits.sum().backward()  # decoding has left nothing behind that cannot be trained
    assert all(w.grad.abs().sum() > 0 for n, w in adapted.named_parameters() if "lora_B" in n)
    assert policy.unquantized is not None
    merged = joined(adapted, policy.unquantized())
    name = "model.layers.1.mlp.up_proj"
    up = adapted.get_submodule(f"base_model.model.{name}")
    change = 2.0 * up.lora_B["default"].weight @ up.lora_A["default"].weight  # alpha / rank = 2
    unquantized = plain.model.get_submodule(name).weight
    torch.testing.assert_close(merged.get_submodule(name).weight, unquantized + change, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        after = merged(tokens).logits
    assert (after - before).abs().max() < (plain.model(tokens).logits - before).abs().max() / 2
