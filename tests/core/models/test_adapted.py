"""One frozen policy under many adapters: rows of a batch by their own adapter, prompts once, weights shared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.models import adapted
from drirl_core.models.adapted import AdaptedPolicy, batches_of, packs_of, shares_rows, sight
from drirl_core.models.adapters import adapters_of
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.token_rows import TokenRow

ROWS = [
    TokenRow((5, 6, 7, 8), (9, 10)),
    TokenRow((5, 6, 7, 8), (11, 12, 13)),
    TokenRow((20, 21), (22,)),
    TokenRow((5, 6, 7, 8), (14,)),
    TokenRow((20, 21), (9, 10, 11, 12)),
    TokenRow((30,), (31, 32)),
]


@pytest.fixture
def policy(tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_models.policy, tiny_models)


def add(host: AdaptedPolicy, seed: int, rank: int = 2, first_layer: float = 0.0) -> str:
    """Add an adapter with random weights, as if it had been trained."""
    lora = adapters_of(LoraConfig(rank, 2 * rank, first_layer=first_layer), host.model, "x", "y")
    assert lora is not None
    name = host.add(lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in host.weights(name).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 10)
    return name


@torch.no_grad()
def alone(host: AdaptedPolicy, rows: list[TokenRow], adapters: list[str]) -> torch.Tensor:
    return torch.cat([host.features([row], [name]) for row, name in zip(rows, adapters, strict=True)])


def test_without_an_adapter_it_is_the_policy_itself(policy: Policy) -> None:
    host = AdaptedPolicy(policy)
    lora = adapters_of(LoraConfig(2), host.model, "x", "y")
    assert lora is not None
    name = host.add(lora)  # a new one changes nothing
    with torch.no_grad():
        own = policy.model.model(torch.tensor([[*ROWS[1].prompt, *ROWS[1].completion]])).last_hidden_state[0]
        torch.testing.assert_close(host.features([ROWS[1]], [name])[0], own[4:].mean(dim=0), atol=1e-6, rtol=0)
        empty = host.features([TokenRow((5, 6), ())], [name])
    assert empty.tolist() == [[0.0] * 32]
    assert host.features([], []).shape == (0, 32)


def test_the_policy_stays_as_it_is_and_its_weights_are_shared(policy: Policy) -> None:
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = policy.model(ids).logits
    host = AdaptedPolicy(policy)
    add(host, 1)
    with torch.no_grad():
        assert torch.equal(policy.model(ids).logits, before)
    theirs = {weight.data_ptr() for weight in policy.model.parameters()}
    frozen = [weight for name, weight in host._base.named_parameters() if "lora" not in name]
    assert {weight.data_ptr() for weight in frozen} == theirs
    assert not any("lora" in name for name, _ in policy.model.named_parameters())


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_mixed_batch_equals_its_rows_one_by_one(policy: Policy, one_by_one: bool) -> None:
    """The adapters differ in rank, scale and first layer."""
    host = AdaptedPolicy(policy, one_by_one=one_by_one)
    names = [add(host, 1), add(host, 2, rank=3), add(host, 3, first_layer=0.5)]
    adapters = [names[i % 3] for i in range(len(ROWS))]
    with torch.no_grad():
        mixed = host.features(ROWS, adapters)
    expected = alone(host, ROWS, adapters)
    assert float((mixed - expected).abs().max()) < 1e-6
    assert float((mixed - alone(host, ROWS, [names[0]] * len(ROWS))).abs().max()) > 1e-2  # the adapters do differ


def test_another_adapter_later_leaves_the_others_as_they_were(policy: Policy) -> None:
    host = AdaptedPolicy(policy)
    names = [add(host, 1), add(host, 2)]
    weights = {key: weight.clone() for key, weight in host.weights(names[0]).items()}
    with torch.no_grad():
        before = host.features(ROWS, [names[i % 2] for i in range(6)])
        third = add(host, 3, rank=5)
        torch.testing.assert_close(host.features(ROWS, [names[i % 2] for i in range(6)]), before, atol=1e-6, rtol=0)
        assert float((host.features(ROWS, [third] * 5 + names[:1]) - before).abs().max()) > 1e-2
    assert all(torch.equal(weights[key], weight) for key, weight in host.weights(names[0]).items())


def test_rows_that_share_a_prompt_equal_rows_alone(policy: Policy) -> None:
    host = AdaptedPolicy(policy)
    name = add(host, 1)
    with torch.no_grad():
        together = host.features(ROWS, [name] * 6)
        torch.testing.assert_close(together, alone(host, ROWS, [name] * 6), atol=1e-6, rtol=0)
        host._together = False
        torch.testing.assert_close(together, host.features(ROWS, [name] * 6), atol=1e-6, rtol=0)


def test_a_prompt_is_computed_once_for_its_completions(policy: Policy) -> None:
    host, seen = AdaptedPolicy(policy), []
    name = add(host, 1)
    host._base.get_input_embeddings().register_forward_hook(lambda module, given, out: seen.append(given[0].numel()))
    with torch.no_grad():
        first, _, _, again = host.features([*ROWS[:2], ROWS[3], ROWS[0]], [name] * 4)
    assert seen == [4 + 2 + 3 + 1]
    assert torch.equal(first, again)


def test_packs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    packs = packs_of(ROWS, ["a", "a", "a", "b", "a", "a"])
    assert [(pack.adapter, pack.rows, pack.length) for pack in packs] == [
        ("a", (0, 1), 9), ("a", (2, 4), 7), ("b", (3,), 5), ("a", (5,), 3),
    ]  # fmt: skip
    assert [pack.rows for pack in packs_of(ROWS[:2], ["a", "a"], together=False)] == [(0,), (1,)]
    monkeypatch.setattr(adapted, "_PACK_TOKENS", 7)
    assert [pack.rows for pack in packs_of(ROWS, ["a"] * 6)] == [(0,), (1,), (3,), (2, 4), (5,)]
    monkeypatch.setattr(adapted, "_BATCH_TOKENS", 14)
    sizes = [[pack.length for pack in part] for part in batches_of(sorted(packs, key=lambda pack: pack.length))]
    assert sizes == [[3, 5], [7], [9]]


def test_what_a_token_sees_by_hand() -> None:
    """Prompt of two tokens, completions of two and one, padding: it sees itself, or its row had no number at all."""
    seen = sight(torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_gradients_reach_the_adapter_of_the_rows_alone(policy: Policy) -> None:
    host = AdaptedPolicy(policy)
    first, second = add(host, 1), add(host, 2)
    host.features(ROWS, [second] * 6).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in host.weights(second).values())
    assert all(weight.grad is None for weight in host.weights(first).values())
    assert all(weight.grad is None for weight in policy.model.parameters())
    with pytest.raises(ValueError, match="train one adapter at a time"):
        host.features(ROWS[:2], [first, second])


def test_lower_layers_are_computed_once_for_rows_that_come_again(policy: Policy) -> None:
    host, calls = AdaptedPolicy(policy), []
    name = add(host, 1, first_layer=0.5)
    host._base.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        expected = host.features(ROWS, [name] * 6)
    with host.remember():
        values = host.features(ROWS, [name] * 6)
        values.sum().backward()
        computed = len(calls)
        torch.testing.assert_close(host.features(ROWS, [name] * 6), values, atol=1e-6, rtol=0)
        assert len(calls) == computed > 1
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
    assert host._memory is None
    assert all(weight.grad is not None for weight in host.weights(name).values())


@pytest.mark.parametrize("reason", ["no memory", "another decoder"])
def test_what_cannot_be_kept_is_computed_completely(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    host = AdaptedPolicy(policy)
    name = add(host, 1, first_layer=0.5)
    with torch.no_grad():
        expected = host.features(ROWS, [name] * 6)
    if reason == "no memory":
        monkeypatch.setattr(adapted, "_KEPT_BYTES", 10)
    else:  # one whose lower layers do more than their output tells
        monkeypatch.setattr(adapted, "from_layer", _scaled(adapted.from_layer))
    with host.remember(), torch.no_grad():
        torch.testing.assert_close(host.features(ROWS, [name] * 6), expected, atol=1e-6, rtol=0)
        assert not host._memory


def _scaled(original: Any) -> Any:
    return lambda decoder, first, states: original(decoder, first, states * 2)


def test_a_policy_with_learned_positions_has_a_row_per_completion(tmp_path: Path, policy: Policy) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    config._attn_implementation = "eager"
    other = dataclasses.replace(policy, model=GPT2LMHeadModel(config).eval())
    host = AdaptedPolicy(other)
    assert shares_rows(policy.model.config) and not shares_rows(host.model.config)
    lora = adapters_of(LoraConfig(2, targets=("c_attn", "c_fc"), first_layer=0.5), host.model, "x", "y")
    assert lora is not None
    names = [host.add(lora), host.add(lora)]
    with torch.no_grad():
        for weight in host.weights(names[1]).values():
            weight.copy_(torch.randn(weight.shape) / 4)
        adapters = [names[i % 2] for i in range(6)]
        expected = alone(host, ROWS, adapters)
        torch.testing.assert_close(host.features(ROWS, adapters), expected, atol=1e-6, rtol=0)
        plain = other.model.transformer(torch.tensor([[20, 21, 22]])).last_hidden_state[0, 2]
        torch.testing.assert_close(host.features(ROWS[2:3], names[:1])[0], plain, atol=1e-6, rtol=0)
