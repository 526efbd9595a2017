"""The profiles of larger models: each fits the shape of its model, without any weights of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from drirl_core.config import Config, load_config
from drirl_core.graph.plan import plan
from drirl_core.models.adapters import adapters_of
from drirl_core.models.loading import load_policy
from drirl_core.models.naming import base_model
from drirl_core.models.skeleton import skeleton
from drirl_core.models.templates import chat_text
from drirl_core.policy.training import save_merged
from drirl_core.project import Project

ROOT = Path(__file__).parents[3]
SHRUNK = 8
"""Divisor of the widths of the models whose weights are made."""
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.1-8b": (
        "llama",
        {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "qwen2-7b": (
        "qwen2",
        {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        },
    ),
    "qwen3-0.6b": (
        "qwen3",
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": True,
        },
    ),
    "smollm2-1.7b": (
        "llama",
        {
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32,
            "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
"""Of each profile's model: its type and shape, as its config.json on the hub has them."""
PARAMETERS = {"llama-3.1-8b": 8.03e9, "qwen2-7b": 7.62e9, "qwen3-0.6b": 0.596e9, "smollm2-1.7b": 1.71e9}
THINKING = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '\n<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""The end of Qwen3's template: thinking is on unless it is told otherwise."""


def profile(name: str, **changes: Any) -> Config:
    return load_config(
        ROOT / "configs" / f"{name}.yaml", {key.replace("__", "."): value for key, value in changes.items()}
    )


@pytest.fixture(params=sorted(SHAPES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_profile_is_tested() -> None:
    others = {"demo", "smoke", "study", "rounds", "balance", "leave_out"}
    assert {file.stem for file in (ROOT / "configs").glob("*.yaml")} - others == set(SHAPES)


def test_its_model_is_one_of_a_known_licence_and_its_results_have_their_own_place(name: str) -> None:
    config = profile(name)
    assert base_model(config.models.policy)[1] in ("apache-2.0", "llama3.1")
    assert (config.name, config.root) == (name, f".drirl/{name}")
    assert not config.models.thinking


def test_the_adapters_fit_the_complete_shape(name: str, tmp_path: Path) -> None:
    """On torch's meta device: shapes without values."""
    kind, shape = SHAPES[name]
    AutoConfig.for_model(kind, **shape).save_pretrained(tmp_path)
    model = skeleton(tmp_path, name)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=0.01)
    config = profile(name)
    for lora in (config.policy.lora, config.sft.lora, config.dpo.lora):
        made = adapters_of(lora, model, "lora", config.models.policy)
        assert made is not None and set(made.target_modules) == set(lora.targets)
        layers = made.layers_to_transform or range(shape["num_hidden_layers"])
        assert len(layers) >= shape["num_hidden_layers"] // 3


def test_two_narrow_layers_go_through_plan_training_and_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eighth of each width and two layers: the ratios of heads, keys and widths are those of the model."""
    import peft
    from bpe_policies import save_tokenizer
    from transformers import AutoTokenizer

    kind, shape = SHAPES[name]
    narrow = {key: shape[key] // SHRUNK for key in ("hidden_size", "intermediate_size")}
    if "head_dim" in shape:
        narrow["head_dim"] = shape["head_dim"] // SHRUNK
    folder = tmp_path / "model"
    size = save_tokenizer(folder)
    made = AutoConfig.for_model(
        kind, **shape | narrow | {"num_hidden_layers": 2, "vocab_size": size, "eos_token_id": 2, "pad_token_id": 2}
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    if kind == "qwen3":
        (folder / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    config = profile(
        name,
        models__policy=f"path:{folder}",
        models__device="cpu",
        models__dtype="float32",
        root=str(tmp_path / "root"),
    )
    monkeypatch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")
    names = {planned.name for planned in plan(Project(config)).pending}
    assert {"policy_checkpoint", "benchmark_embedded", "report"} <= names
    policy = load_policy(config.models.policy, config.models)
    adapters = adapters_of(config.policy.lora, policy.model, "policy.lora", name)
    adapted = peft.get_peft_model(policy.model, adapters)
    tokens = torch.arange(3, 19).reshape(1, 16)
    optimiser = torch.optim.AdamW([w for w in adapted.parameters() if w.requires_grad], config.policy.learning_rate)
    first = adapted(input_ids=tokens, labels=tokens).loss
    first.backward()
    optimiser.step()
    with torch.no_grad():
        after = adapted(input_ids=tokens, labels=tokens).loss
    assert after < first
    save_merged(adapted, policy, tmp_path / "checkpoint")
    again = load_policy(tmp_path / "checkpoint", config.models)
    with torch.no_grad():
        torch.testing.assert_close(again.model(input_ids=tokens, labels=tokens).loss, after, rtol=1e-4, atol=1e-5)
    if kind == "qwen3":
        expected = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        assert chat_text(again.tokenizer, "Hello") == expected
        plain = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")  # by anybody, without this project
        messages = [{"role": "user", "content": "Hello"}]
        assert plain.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected
        assert again.rendering["thinking"] == "off"
