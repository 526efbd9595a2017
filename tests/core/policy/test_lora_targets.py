"""Adapters whose targets match in part or not at all are refused with the model's layers, without any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PhiConfig

from drirl_core.config import LoraConfig
from drirl_core.errors import ConfigError, ModelError
from drirl_core.models.adapters import adapters_of
from drirl_core.models.skeleton import described_layers, linear_layers, skeleton

SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}


def _made(config: Any, folder: Path) -> Any:
    config.save_pretrained(folder)
    return skeleton(folder, "path:x")


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    return _made(LlamaConfig(vocab_size=99, num_key_value_heads=2, **SMALL), tmp_path)


@pytest.fixture
def gpt2(tmp_path: Path) -> Any:
    return _made(GPT2Config(n_layer=4, n_head=2, n_embd=16, vocab_size=99), tmp_path)


def test_a_skeleton_has_shapes_and_no_values(llama: Any) -> None:
    assert {str(weight.device) for weight in llama.parameters()} == {"meta"}
    assert len(llama.get_input_embeddings().weight) == 99
    assert described_layers(linear_layers(llama)) == (
        "q_proj (4), k_proj (4), v_proj (4), o_proj (4), gate_proj (4), up_proj (4), down_proj (4), lm_head (1)"
    )


def test_the_default_targets_fit_llama(llama: Any) -> None:
    made = adapters_of(LoraConfig(first_layer=0.5), llama, "sft.lora", "path:x")
    assert made is not None
    assert made.layers_to_transform == [2, 3]
    assert adapters_of(LoraConfig(rank=0, targets=("nothing",)), llama, "sft.lora", "path:x") is None


def test_targets_that_name_nothing(gpt2: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=r"policy\.lora\.targets: q_proj, .*, down_proj name no layer, so nothing would be adapted; the linear layers of "
        r"path:x are: c_attn \(4\), c_proj \(8\), c_fc \(4\), lm_head \(1\)\. Set policy\.lora\.targets to names among them",
    ):
        adapters_of(LoraConfig(), gpt2, "policy.lora", "path:x")
    assert adapters_of(LoraConfig(targets=("c_attn", "mlp.c_proj"), first_layer=0.5), gpt2, "policy.lora", "path:x")


def test_targets_that_match_in_part(tmp_path: Path) -> None:
    phi = _made(PhiConfig(vocab_size=99, **SMALL), tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"sft\.lora\.targets: o_proj, gate_proj, up_proj, down_proj name no layer, so only q_proj, k_proj, v_proj would "
        r"be adapted; the linear layers of path:x are: q_proj \(4\), .*dense \(4\), fc1 \(4\), fc2 \(4\)",
    ):
        adapters_of(LoraConfig(), phi, "sft.lora", "path:x")


def test_a_container_is_no_target(llama: Any) -> None:
    with pytest.raises(ConfigError, match=r"sft\.lora\.targets: mlp names no layer, so only q_proj would be adapted"):
        adapters_of(LoraConfig(targets=("q_proj", "mlp")), llama, "sft.lora", "path:x")


def test_a_target_outside_the_numbered_layers(llama: Any) -> None:
    targets = ("q_proj", "embed_tokens")
    assert adapters_of(LoraConfig(targets=targets), llama, "sft.lora", "path:x")
    with pytest.raises(
        ConfigError,
        match=r"sft\.lora\.first_layer is 0\.5, which adapts the layers 2 to 3 of 4, but embed_tokens is in none of them, as "
        r"far as a name such as model\.embed_tokens tells; set sft\.lora\.first_layer to 0, or leave embed_tokens out",
    ):
        adapters_of(LoraConfig(targets=targets, first_layer=0.5), llama, "sft.lora", "path:x")
    whole = LoraConfig(targets=("q_proj", "lm_head"), first_layer=0.5)  # PEFT adapts what is named completely
    assert adapters_of(whole, llama, "sft.lora", "path:x")


def test_layers_whose_names_have_no_number(llama: Any) -> None:
    """`first_layer` finds layers by the number in their names."""
    import torch

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = llama.config
            for number in range(4):
                self.add_module(f"block{number}", torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)}))

    assert adapters_of(LoraConfig(targets=("q_proj",)), Odd(), "sft.lora", "path:x")
    with pytest.raises(ConfigError, match=r"q_proj is in none of them, as far as a name such as block0\.q_proj tells"):
        adapters_of(LoraConfig(targets=("q_proj",), first_layer=0.5), Odd(), "sft.lora", "path:x")


def test_other_families_are_seen(tmp_path: Path) -> None:
    neox = _made(GPTNeoXConfig(vocab_size=99, **SMALL), tmp_path)
    assert adapters_of(LoraConfig(targets=("query_key_value",), first_layer=0.5), neox, "sft.lora", "path:x")


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="path:x cannot be loaded"):
        skeleton(tmp_path, "path:x")
