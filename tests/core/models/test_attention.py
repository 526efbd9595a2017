"""Heads that share keys and values attend without copies of them, with the results of the plain attention."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.llama.modeling_llama import eager_attention_forward as plain_attention

from drirl_core.config import ModelsConfig
from drirl_core.models import attention
from drirl_core.models.attention import SHARED_HEADS, share_heads, shared_heads
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling.decode import SamplingSettings, decode, ready_to_decode

TEXTS = ["<|user|>Hi<|end|><|assistant|>", "<|user|>How do I bake bread?<|end|><|assistant|>", "<|user|>Why?<|end|>"]


@pytest.fixture
def policy(tiny_policy: Path, settings: ModelsConfig) -> Policy:
    return load_policy(tiny_policy, settings)


def _batch(policy: Policy) -> dict[str, torch.Tensor]:
    """Return rows of unlike length, padded on the left."""
    return dict(policy.tokenizer(TEXTS, return_tensors="pt", padding=True, add_special_tokens=False))


def _with_plain_attention(policy: Policy, run: Any) -> Any:
    policy.model.set_attn_implementation("eager")
    try:
        return run()
    finally:
        policy.model.set_attn_implementation(SHARED_HEADS)


def test_a_loaded_policy_whose_heads_share_keys_uses_it_and_its_files_do_not_name_it(
    policy: Policy, tmp_path: Path
) -> None:
    assert policy.model.config.num_attention_heads > policy.model.config.num_key_value_heads
    assert policy.model.config._attn_implementation == SHARED_HEADS
    policy.model.save_pretrained(tmp_path / "saved")
    assert SHARED_HEADS not in (tmp_path / "saved/config.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_prompt_and_of_the_tokens_behind_it_are_those_of_plain_attention(
    policy: Policy, dtype: torch.dtype
) -> None:
    policy.model.to(dtype)
    batch = _batch(policy)

    @torch.inference_mode()
    def run() -> list[torch.Tensor]:
        first = policy.model(**batch, use_cache=True)
        mask = torch.cat([batch["attention_mask"], torch.ones(len(TEXTS), 1, dtype=torch.long)], dim=1)
        ids = first.logits[:, -1:].argmax(-1)
        second = policy.model(input_ids=ids, attention_mask=mask, past_key_values=first.past_key_values)
        return [first.logits[batch["attention_mask"].bool()], second.logits]

    for ours, plain in zip(run(), _with_plain_attention(policy, run), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_those_of_plain_attention(policy: Policy, temperature: float) -> None:
    def run() -> Any:
        return decode(policy, TEXTS, ["1a", "2b", "3c"], SamplingSettings(12, temperature, 8))

    assert run() == _with_plain_attention(policy, run)


def test_gradients_are_those_of_plain_attention_to_the_bit(policy: Policy) -> None:
    """Training must give the weights that it gave before."""
    batch = _batch(policy)

    def run() -> list[torch.Tensor]:
        policy.model.zero_grad()
        policy.model(**batch, labels=batch["input_ids"]).loss.backward()
        return [weight.grad.clone() for weight in policy.model.parameters()]

    assert all(map(torch.equal, run(), _with_plain_attention(policy, run)))


def test_a_model_with_an_attention_of_its_own_keeps_it() -> None:
    """Gemma 2 bounds the weights before the softmax."""
    config = Gemma2Config(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = Gemma2ForCausalLM(config)
    share_heads(model)
    assert model.config._attn_implementation == "eager"


def test_values_of_another_width_than_keys_are_attended_to() -> None:
    """As in the models of DeepSeek, whose code of the plain attention is the common one."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, *shape, generator=draw) for shape in ((4, 5, 6), (2, 5, 6), (2, 5, 3)))
    layer = SimpleNamespace(num_key_value_groups=2, training=False)
    with torch.no_grad():
        ours, plain = (attend(layer, query, key, value, None, 0.4) for attend in (shared_heads, plain_attention))
    torch.testing.assert_close(ours, plain)


def test_a_pass_without_gradients_in_training_mode_uses_it_as_well(policy: Policy) -> None:
    """As in the rollouts of GRPO; only dropout, which such a model does not have, needs the plain one."""
    batch = _batch(policy)
    policy.model.train()

    def run() -> torch.Tensor:
        with torch.no_grad(), mock.patch.object(attention, "eager_attention_forward", wraps=plain_attention) as called:
            logits = policy.model(**batch).logits
        assert not called.called
        return logits[batch["attention_mask"].bool()]

    assert torch.equal(run(), _with_plain_attention(policy, run))


def test_decoding_in_a_training_keeps_it(policy: Policy) -> None:
    with ready_to_decode(policy.model):
        assert policy.model.config._attn_implementation == SHARED_HEADS
    assert policy.model.config._attn_implementation == SHARED_HEADS
