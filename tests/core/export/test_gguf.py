"""GGUF files: read back by transformers' own reader, they are the policy that was written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bpe_policies import LLAMA3, SPECIAL, TEMPLATE, TEXT
from gguf import GGUFReader

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.export.gguf_file import permuted, rope_factors, write_gguf
from drirl_core.export.gguf_tokens import splitting_rule

SAID = {"name": "my run", "license": "apache-2.0", "base": "somebody/a-model"}


def logits(folder: Path, **more: Any) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **more
    ).eval()
    tokens = AutoTokenizer.from_pretrained(folder, **more)(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(tokens).logits[0]


def fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize(
    ("family", "more"),
    [("llama", {}), ("llama", {"tie_word_embeddings": False}), ("qwen2", {}), ("qwen3", {"head_dim": 128})],
)
def test_transformers_reads_the_same_policy_back(
    policy: Callable[..., Path], family: str, more: dict[str, Any]
) -> None:
    folder = policy(family, **more)
    file = folder.parent / "gguf" / "p-f32.gguf"
    file.parent.mkdir()
    write_gguf(folder, file, "f32", SAID)
    torch.testing.assert_close(logits(file.parent, gguf_file=file.name), logits(folder), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "far"), [("f16", 0.005), ("bf16", 0.03), ("q8_0", 0.08)])
def test_fewer_bits_give_nearly_the_same_policy(policy: Callable[..., Path], kind: str, far: float) -> None:
    folder = policy()
    file = folder.parent / "gguf" / f"p-{kind}.gguf"
    file.parent.mkdir()
    write_gguf(folder, file, kind, SAID)
    own, read = logits(folder), logits(file.parent, gguf_file=file.name)
    assert 0 < (read - own).std() / own.std() < far
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_tokens_template_and_origin_are_in_the_file(policy: Callable[..., Path]) -> None:
    folder = policy(split=LLAMA3, vocab_size=400)  # the model has more ids than the tokenizer
    file = folder.parent / "p.gguf"
    write_gguf(folder, file, "f16", SAID)
    found = fields(file)
    assert found["general.architecture"] == "llama"
    assert (found["general.name"], found["general.license"]) == ("my run", "apache-2.0")
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/somebody/a-model"
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    assert found["tokenizer.ggml.tokens"][:3] == SPECIAL
    assert found["tokenizer.ggml.tokens"][-1] == "[PAD399]"
    assert found["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert found["tokenizer.ggml.token_type"][-1] == 5
    assert len(found["tokenizer.ggml.merges"]) > 10
    ids = [found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")]
    assert ids == [1, 2, 2, 0]
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == TEMPLATE


def test_rows_of_a_head_are_interleaved() -> None:
    """Two heads of four rows: halves (0, 1), (2, 3) become pairs (0, 2), (1, 3)."""
    rows = np.arange(8).reshape(8, 1)
    assert permuted(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permuted(np.arange(8), 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_slowed_rotations_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=4096, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=rope)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    factors = rope_factors(config)
    assert factors is not None and factors.shape == (64,)
    plain = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(plain / factors, expected.numpy(), rtol=1e-5)
    assert (factors[0], factors[-1]) == (1.0, 8.0)


def test_positions_without_scaling_have_no_factors() -> None:
    assert rope_factors(SimpleNamespace(rope_parameters={"rope_type": "default", "rope_theta": 1e4})) is None


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "use_regex": True},
                ],
            },
            "smollm",
        ),
    ],
)
def test_splitting_rules_have_llama_cpp_names(parts: dict[str, Any], name: str) -> None:
    assert splitting_rule({"pre_tokenizer": parts}, Path("p")) == name


def test_a_rule_without_a_name_is_refused(policy: Callable[..., Path]) -> None:
    folder = policy(split=r"\w+")
    with pytest.raises(
        ModelError, match=r"splits texts by a rule that has no name in a GGUF file \(Split, ByteLevel\)"
    ):
        write_gguf(folder, folder.parent / "p.gguf", "f16", SAID)


def test_other_families_are_refused(policy: Callable[..., Path]) -> None:
    folder = policy("gpt_neox")
    with pytest.raises(ModelError, match="a model of type gpt_neox; GGUF files are written for llama, qwen2, qwen3"):
        write_gguf(folder, folder.parent / "p.gguf", "f16", SAID)


def test_a_tokenizer_without_merges_is_refused(policy: Callable[..., Path]) -> None:
    folder = policy()
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    described["model"]["merges"] = []
    file.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(ModelError, match="has no merges"):
        write_gguf(folder, folder.parent / "p.gguf", "f16", SAID)


@pytest.mark.slow
def test_the_real_model_is_read_back(tmp_path: Path) -> None:
    from drirl_core.config import load_config
    from drirl_core.config.place import anchored
    from drirl_core.models.references import resolve

    models: ModelsConfig = anchored(load_config(Path("configs/demo.yaml"))).models
    folder = resolve(models.policy, models)
    for kind, far in (("f32", 1e-4), ("q8_0", 0.1)):
        write_gguf(folder, tmp_path / f"{kind}.gguf", kind, SAID)
        own, read = logits(folder), logits(tmp_path, gguf_file=f"{kind}.gguf")
        assert (read - own).std() / own.std() < far
        assert (read.argmax(-1) == own.argmax(-1)).float().mean() > 0.9
