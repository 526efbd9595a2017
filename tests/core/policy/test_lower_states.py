"""An update that begins at the first adapted layer, with what the reference's pass left there, is the complete update."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from drirl_core.config import LoraConfig
from drirl_core.models import partial_pass
from drirl_core.models.adapters import peft_config
from drirl_core.models.attention import share_heads
from drirl_core.models.partial_pass import with_layer
from drirl_core.models.shared_prompts import prompts_once, start_once
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.lower_states import LowerStates, lower_states
from drirl_core.policy.sft import build_sft_checkpoint
from drirl_core.policy.training import read_log

DEPTH, FIRST, WIDTH = 4, 2, 14
SYSTEM = tuple(range(20, 29))
"""Tokens with which all prompts begin, long enough to be run once."""
ROWS = [
    ((*SYSTEM, 5, 6), (7, 8, 9)),
    ((*SYSTEM, 5, 6), (7, 8)),
    ((*SYSTEM, 4, 3, 2, 1), (9, 9, 9, 9)),
    ((*SYSTEM, 4), (1,)),
]
"""Prompts and completions; the first two share a prompt, and the beginnings of their completions."""


@pytest.fixture
def plain() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=40, num_hidden_layers=DEPTH, attn_implementation="eager", **shape)
    model = LlamaForCausalLM(config).train()
    share_heads(model)
    return model


@pytest.fixture
def model(plain: Any) -> Any:
    """The model under adapters on its upper layers that change the output."""
    adapted = peft.get_peft_model(plain, peft_config(LoraConfig(rank=2, alpha=4, first_layer=0.5), DEPTH))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return adapted


def _batch(rows: list[tuple[tuple[int, ...], tuple[int, ...]]], length: int = 5) -> dict[str, torch.Tensor]:
    """Pad prompts on the left and completions on the right."""
    ids, mask = torch.zeros(len(rows), WIDTH + length, dtype=torch.long), torch.zeros(len(rows), WIDTH + length).long()
    for i, (prompt, completion) in enumerate(rows):
        start = WIDTH - len(prompt)
        tokens = torch.tensor([*prompt, *completion])
        ids[i, start : start + len(tokens)], mask[i, start : start + len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


@contextlib.contextmanager
def _wrapped(model: Any, wrappers: str) -> Iterator[None]:
    with contextlib.ExitStack() as blocks:
        if "start" in wrappers:
            blocks.enter_context(start_once(model))
        if "prompts" in wrappers:
            blocks.enter_context(prompts_once(model, WIDTH, ends=not torch.is_grad_enabled()))
        yield


def _gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss over all logits that predict a token, and the loss."""
    model.zero_grad()
    logits = model(**batch, use_cache=False).logits[:, WIDTH - 1 : -1].float()
    asked = batch["attention_mask"][:, WIDTH:].bool()
    loss = torch.nn.functional.cross_entropy(logits[asked], batch["input_ids"][:, WIDTH:][asked])
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {**found, "loss": loss.detach()}


@pytest.fixture
def calls(plain: Any) -> Counter[str]:
    """Passes of a lower and of an upper layer's feed-forward part."""
    seen: Counter[str] = Counter()
    for name, number in (("lower", FIRST - 1), ("upper", FIRST)):
        plain.model.layers[number].mlp.register_forward_hook(lambda *_, name=name: seen.update([name]))
    return seen


@pytest.mark.parametrize("wrappers", ["", "start", "prompts", "start and prompts"])
def test_gradients_are_those_of_the_complete_update(model: Any, calls: Counter[str], wrappers: str) -> None:
    """Of rows in another order, some alone; the reference's own output is not changed either."""
    kept, batch = LowerStates(FIRST), _batch(ROWS)
    with model.disable_adapter(), torch.no_grad(), _wrapped(model, wrappers):
        reference = model(**batch).logits
        with kept.shared(model):
            found = model(**batch).logits
    assert torch.equal(found, reference)
    for rows in ([ROWS[2], ROWS[0], ROWS[1]], [ROWS[3]], ROWS):
        part = _batch(rows, 4 if rows is ROWS else 7)  # padded to another width
        with _wrapped(model, wrappers):
            expected = _gradients(model, part)
            calls.clear()
            with kept.shared(model):
                given = _gradients(model, part)
        assert calls["upper"] and not calls["lower"]
        assert given.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(given[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_tokens_that_were_not_kept_run_through_all_layers(model: Any, calls: Counter[str]) -> None:
    kept = LowerStates(FIRST)
    with torch.no_grad(), kept.shared(model):
        model(**_batch(ROWS[:2]))
    expected = _gradients(model, _batch(ROWS))
    calls.clear()
    with kept.shared(model):
        given = _gradients(model, _batch(ROWS))
    assert calls["lower"] == calls["upper"] == 1
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    kept.begin()
    with kept.shared(model):
        calls.clear()
        _gradients(model, _batch(ROWS[:2]))
    assert calls["lower"] == 1  # of the step before nothing is left


def test_a_layer_is_read_in_parts_by_several_at_a_time(plain: Any) -> None:
    """Two blocks within each other read two layers of a pass that runs prompts once, and leave its output as it is."""
    batch, decoder = _batch(ROWS), plain.model
    states = plain(**batch, output_hidden_states=True).hidden_states
    with torch.no_grad(), prompts_once(plain, WIDTH):
        expected = decoder(**batch).last_hidden_state
        with with_layer(decoder, 1) as inner:
            read: list[torch.Tensor] = []

            def reading(*arguments: Any, **named: Any) -> Any:
                found, of_first = inner(*arguments, **named)
                read.append(of_first)
                return found

            with mock.patch.object(decoder, "forward", reading), with_layer(decoder, 3) as outer:
                found, of_third = outer(**batch)
    present = batch["attention_mask"].bool()
    assert torch.equal(found.last_hidden_state, expected)
    torch.testing.assert_close(read[0][present], states[1][present].detach())
    torch.testing.assert_close(of_third[present], states[3][present].detach())


def test_where_lower_layers_are_trained_or_models_differ_nothing_is_kept(plain: Any) -> None:
    upper, every = (peft_config(LoraConfig(rank=2, first_layer=share), DEPTH) for share in (0.5, 0.0))
    assert isinstance(lower_states(plain, upper), LowerStates)
    assert lower_states(plain, every) is None
    assert lower_states(plain, None) is None
    for name in ("attention_dropout", "residual_dropout", "router_jitter_noise"):
        setattr(plain.config, name, 0.1)
        assert lower_states(plain, upper) is None
        setattr(plain.config, name, 0.0)
    assert isinstance(lower_states(plain, upper), LowerStates)


def test_a_model_whose_layers_are_not_entered_by_their_states_alone_is_left_as_it_is(plain: Any) -> None:
    """One that adds embeddings behind its layers: a pass that begins later would lack nothing, but a scaled layer does."""
    layer = plain.model.layers[FIRST]
    forward = layer.forward
    layer.forward = lambda hidden, **named: forward(hidden + plain.model.layers[0].marked, **named)
    plain.model.layers[0].register_forward_hook(
        lambda module, inputs, output: setattr(module, "marked", output.detach().mean())
    )
    plain.model.layers[0].register_forward_pre_hook(lambda module, inputs: setattr(module, "marked", 0.0))
    adapters = peft_config(LoraConfig(rank=2, first_layer=0.5), DEPTH)
    assert lower_states(plain, adapters) is None


def test_the_probe_runs_behind_a_beginning(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that are passed through and forget how many tokens they have seen give other masks: this is noticed."""

    def forgetful(number: int, hidden: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        return hidden

    monkeypatch.setattr(partial_pass, "_passed_through", forgetful)
    assert lower_states(plain, peft_config(LoraConfig(rank=2, first_layer=0.5), DEPTH)) is None


def test_a_norm_without_a_weight_and_one_before_the_layers_do_no_harm(plain: Any) -> None:
    batch, decoder = _batch(ROWS), plain.model
    weight = decoder.norm.weight
    del decoder.norm.weight
    decoder.norm.forward = lambda states: states * weight
    decoder.embed_tokens.register_forward_hook(lambda module, inputs, output: decoder.norm(output))
    expected = decoder(**batch).last_hidden_state
    with torch.no_grad(), with_layer(decoder, 1) as run:
        found, states = run(**batch)
    assert torch.equal(found.last_hidden_state, expected)
    assert states.shape == expected.shape


MORE = {"policy.num_iterations": 2}, {"policy.micro_batch": 4}, {"policy.kl": 0.1, "policy.seed": 3}


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("more", MORE)
def test_the_policy_learns_the_same_and_every_update_begins_later(
    contexts: Any, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """The stage with and without what is kept: equal logs up to rounding."""
    settings = {"policy.lora": {"rank": 2, "first_layer": 0.5}, "policy.kl": 0.1, "policy.steps": 2, **more}
    logs: dict[str, list[Any]] = {}
    found: list[bool] = []
    places = LowerStates._places_of

    def noted(self: LowerStates, ids: torch.Tensor, mask: torch.Tensor, *, new: bool = False) -> torch.Tensor:
        kept = places(self, ids, mask, new=new)
        if not new:
            found.append(bool(kept[mask.bool()].all()))
        return kept

    monkeypatch.setattr(LowerStates, "_places_of", noted)
    for name, shares in (("kept", True), ("computed", False)):
        context = contexts.make(name, {**settings, "policy.share_lower_layers": shares})
        build_policy_checkpoint(context)
        logs[name] = read_log(Path(context.out) / "training_log.jsonl")
    assert all(found) and len(found) >= 2
    for one, other in zip(logs["kept"], logs["computed"], strict=True):
        assert one.keys() == other.keys() and {"loss", "kl"} <= one.keys()
        for key in {"loss", "kl", "reward", "entropy"} & one.keys():  # a second update logs no reward
            assert one[key] == pytest.approx(other[key], abs=1e-4), key


SHARING = {"policy.lora": {"rank": 2, "first_layer": 0.5}, "policy.share_lower_layers": True, "policy.steps": 1}


@pytest.mark.usefixtures("no_curves")
def test_an_update_that_cannot_begin_later_says_so(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drirl_core.policy.lower_states.can_be_read", lambda model: False)
    context = contexts.make("unread", SHARING)
    build_policy_checkpoint(context)
    assert any("the update computes all layers" in line for line in context.reporter.lines)


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    "other", [{"policy.kl": 0}, {"policy.lora": {"rank": 2}}], ids=["no KL", "adapters everywhere"]
)
def test_an_update_with_nothing_to_share_says_so(contexts: Any, other: dict[str, Any]) -> None:
    context = contexts.make("run", {**SHARING, **other})
    build_policy_checkpoint(context)
    assert any("the update computes all layers" in line for line in context.reporter.lines)


def test_rows_are_learned_before_the_first_step(model: Any, calls: Counter[str]) -> None:
    """Gradients are those of the complete update, of rows in any order and padding, and of prompts by themselves."""
    kept = LowerStates(FIRST)
    rows = [(*prompt, *completion) for prompt, completion in ROWS]
    assert kept.learn(model, [*rows, rows[0], (*SYSTEM, 7)]) == 9 + 2 + 3 + 4 + 4 + 1 + 1  # beginnings count once
    calls.clear()
    for part in (_batch([ROWS[2], ROWS[0]], 7), _batch(ROWS), _batch([((*SYSTEM, 7), ()), ROWS[3]], 1)):
        expected = _gradients(model, part)
        calls.clear()
        with kept.shared(model):
            given = _gradients(model, part)
        assert calls["upper"] and not calls["lower"]
        for name, gradient in expected.items():
            torch.testing.assert_close(given[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_rows_without_a_common_beginning_are_learned(model: Any, calls: Counter[str]) -> None:
    kept = LowerStates(FIRST)
    assert kept.learn(model, [(1, 2, 3), (2, 2), (1, 2, 4), (9,), (1, 2)]) == 3 + 2 + 1 + 1
    part = _batch([((1, 2), (3,)), ((2,), (2,)), ((9,), ())])
    expected = _gradients(model, part)
    calls.clear()
    with kept.shared(model):
        given = _gradients(model, part)
    assert not calls["lower"]
    for name, gradient in expected.items():
        torch.testing.assert_close(given[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


SFT = {
    "sft.lora": {"rank": 2, "first_layer": 0.5}, "sft.epochs": 1, "sft.rows_per_category": 2, "sft.helpful_rows": 2,
    "sft.decision": 2, "sft.decision_prompts": 3, "sft.batch_size": 2, "sft.answer_tokens": 6,
}  # fmt: skip


def test_the_start_learns_the_same_from_states_that_are_kept(contexts: Any) -> None:
    logs = {}
    for name, shares in (("kept below", True), ("computed below", False)):
        context = contexts.make(name, {**SFT, "sft.share_lower_layers": shares})
        build_sft_checkpoint(context)
        logs[shares] = read_log(Path(context.out) / "training_log.jsonl")
        said = [line for line in context.reporter.lines if "below the adapters is computed once" in line]
        assert len(said) == shares
    for one, other in zip(logs[True], logs[False], strict=True):
        assert one.keys() == other.keys()
        for key in ("loss", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=1e-3), key


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("can_be_read", lambda model: False, "a model whose layers can be entered"),
        ("_MOST_BYTES", 100, "could take 0.0 GB, and 0 GB is the most"),
    ],
)
def test_a_start_that_cannot_keep_them_says_so(
    contexts: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, said: str
) -> None:
    monkeypatch.setattr(f"drirl_core.policy.lower_states.{name}", value)
    context = contexts.make(f"start without {name}", {**SFT, "sft.share_lower_layers": True})
    build_sft_checkpoint(context)
    assert any("every step computes all layers" in line and said in line for line in context.reporter.lines)


@pytest.mark.parametrize(
    "other",
    [{"sft.decision": 0, "sft.decision_prompts": 0}, {"sft.contrast": 1}, {"sft.lora": {"rank": 2}}],
    ids=["no decision", "twins", "adapters on all layers"],
)
def test_a_start_with_nothing_to_share_says_so(contexts: Any, other: dict[str, Any]) -> None:
    context = contexts.make("start", {**SFT, "sft.share_lower_layers": True, **other})
    build_sft_checkpoint(context)
    assert any("every step computes all layers" in line for line in context.reporter.lines)
