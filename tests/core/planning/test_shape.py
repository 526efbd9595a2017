"""Weights of a model, counted from its configuration, against the model itself."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from drirl_core.errors import ModelError
from drirl_core.planning.shape import shape_of, shape_of_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_is_counted(tmp_path: Path, tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    shape = shape_of(tmp_path, "path:here")
    model = LlamaForCausalLM(config)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    assert (shape.layers, shape.hidden, shape.queries, shape.keys, shape.intermediate) == (3, 16, 32, 16, 24)
    assert (shape.head, shape.embedding) == (800, 0 if tied else 800)
    assert shape.widths("down_proj") == (24, 16)
    # q: 16 + 32, k and v: 16 + 16 each, in three layers of rank 2
    assert shape.adapter_weights(2, ("q_proj", "k_proj", "v_proj"), 3) == 3 * 2 * (48 + 32 + 32)
    assert shape.adapted_weights(("q_proj",), 1) == 512


def test_a_mixture_of_experts_is_refused() -> None:
    config = MixtralConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    with pytest.raises(ModelError, match="experts is 2"):
        shape_of_model(model, "path:mixture")
