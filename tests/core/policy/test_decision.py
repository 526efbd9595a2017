"""The decision whether to refuse as a loss of its own: tokens, odds and loss by hand, and what is learned by it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import assert_resumes
from transformers import AutoModelForCausalLM

from drirl_core.config import SftConfig
from drirl_core.errors import ConfigError
from drirl_core.policy.decision import decision_loss, decisions, last_states, refusing_tokens
from drirl_core.policy.decision_rows import beside_rows
from drirl_core.policy.sft import build_sft_checkpoint
from drirl_core.policy.training import read_log
from drirl_core.policy.twins import DECIDED, MATCHED, PROMPTS, TwinCollator

pytestmark = pytest.mark.usefixtures("no_curves")
SETTINGS = {
    "sft.decision": 1.0,
    "sft.batch_size": 6,
    "sft.epochs": 2,
    "sft.learning_rate": 1e-3,
    "sft.answer_tokens": 6,
    "sft.rows_per_category": 0,
}


def test_tokens_that_begin_a_larger_share_of_refusals_by_hand() -> None:
    """Of 3 refusals and 4 answers: token 5 begins 2/3 and 1/4, token 6 1/3 and 2/4, token 7 no refusal."""
    openings = [(5, True), (5, True), (6, True), (5, False), (6, False), (6, False), (7, False)]
    assert refusing_tokens(openings) == [5]
    assert refusing_tokens([*openings, (9, True)]) == [5, 9]


@pytest.mark.parametrize("unsafe", [True, False])
def test_of_one_kind_of_prompts_nothing_is_decided(unsafe: bool) -> None:
    assert refusing_tokens([(5, unsafe), (6, unsafe)]) == []
    assert refusing_tokens([]) == []


def test_answers_that_all_begin_alike_decide_nothing() -> None:
    """As behind a thought that each of them closes first."""
    assert refusing_tokens([(5, True), (5, True), (5, False)]) == []


def test_odds_by_hand() -> None:
    """Probabilities .1, .2, .3, .4: tokens 1 and 3 have .6, so that the odds are 3 to 2."""
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log() + 7.0
    assert decisions(logits, torch.tensor([1, 3])).item() == pytest.approx(math.log(1.5), abs=1e-6)


@given(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=6))
def test_odds_are_those_of_the_softmax_and_change_sign_with_the_set(row: list[float]) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    ours, theirs = torch.tensor([0]), torch.arange(1, len(row))
    share = logits.softmax(dim=1)[0, 0]
    assert torch.sigmoid(decisions(logits, ours)).item() == pytest.approx(share.item(), abs=1e-12)
    assert decisions(logits, theirs).item() == pytest.approx(-decisions(logits, ours).item(), abs=1e-9)


def test_the_loss_by_hand() -> None:
    """Odds of 2 for an unsafe and for a harmless prompt: half of log(1 + exp(-2)) + log(1 + exp(2))."""
    loss = decision_loss(torch.tensor([2.0, 2.0]), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2.0)) + math.log1p(math.exp(2.0))) / 2)


def test_the_states_are_those_from_which_the_next_token_is_predicted(tiny_policy: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_policy).eval()
    with torch.no_grad(), last_states(model) as states:
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert len(states) == 1
    assert torch.allclose(model.lm_head(states[0]), logits, atol=1e-5)
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]))
    assert len(states) == 1  # afterwards nothing is noted


def test_a_row_of_unknown_kind_says_so() -> None:
    rows = [{"input_ids": [7, 1], "labels": [-100, 1], "pair": -1, "unsafe": kind} for kind in (1, 0)]
    rows.append({"input_ids": [7, 1], "labels": [-100, 1], "pair": -1})
    assert TwinCollator(padding=0, limit=9)(rows)["unsafe"].tolist() == [1, 0, -1]


def test_prompts_are_dealt_equally_often() -> None:
    prompts = [{"input_ids": [number]} for number in range(5)]
    dealt = beside_rows(prompts, rows=6, count=2, seed=1)
    assert [len(some) for some in dealt] == [2] * 6
    tokens = [one["input_ids"][0] for some in dealt for one in some]
    assert sorted(tokens[:5]) == sorted(tokens[5:10]) == [0, 1, 2, 3, 4]
    assert tokens[:5] != tokens[5:10]
    assert dealt == beside_rows(prompts, rows=6, count=2, seed=1) != beside_rows(prompts, rows=6, count=2, seed=2)


def test_a_prompt_beside_a_row_has_nothing_but_a_kind() -> None:
    row = {"input_ids": [7, 8, 1, 2], "labels": [-100, -100, 1, 2], "pair": -1, "unsafe": 0}
    batch = TwinCollator(padding=0, limit=9)([{**row, PROMPTS: [{"input_ids": [5, 6, 9], "unsafe": 1}]}, row])
    assert batch["input_ids"].tolist() == [[0, 7, 8, 1, 2], [0, 7, 8, 1, 2], [5, 6, 9, 0, 0]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (batch["labels"][2] == -100).all()
    assert batch["unsafe"].tolist() == [0, 0, 1]
    assert batch["prompt_width"] == 3


def test_the_decision_is_learned(contexts: Any) -> None:
    """Without twins and comparison."""
    context = contexts.make(
        "decided", {**SETTINGS, "sft.lora.rank": 0, "sft.batch_size": 18, "sft.epochs": 40, "sft.learning_rate": 2e-2}
    )
    build_sft_checkpoint(context)
    log = read_log(context.out / "training_log.jsonl")
    assert not any(MATCHED in row for row in log)
    assert log[0][DECIDED] < log[-1][DECIDED] == 1.0
    assert any("the decision to refuse is one of" in line for line in context.reporter.lines)


def test_the_decision_is_added_to_the_likelihood(contexts: Any) -> None:
    """With a weight below rounding the loss is that of likelihood alone, and grows with the weight."""
    losses = []
    for name, decision in (("off", 0.0), ("rounding", 1e-12), ("one", 1.0), ("three", 3.0)):
        context = contexts.make(name, {**SETTINGS, "sft.epochs": 1, "sft.batch_size": 18, "sft.decision": decision})
        build_sft_checkpoint(context)
        losses.append(read_log(context.out / "training_log.jsonl")[0]["loss"])
    off, rounding, one, three = losses
    assert rounding == pytest.approx(off, abs=1e-5)
    assert one - off > 0.05
    assert three - off == pytest.approx(3 * (one - off), abs=1e-4)


def test_a_step_of_several_batches_has_the_loss_of_one_batch_of_all_their_rows(contexts: Any) -> None:
    """18 rows, each with six learned tokens, in one batch and in three whose gradients are summed."""
    logs = []
    for name, rows, batches in (("one", 18, 1), ("three", 6, 3)):
        how = {"sft.epochs": 1, "sft.batch_size": rows, "sft.trl": {"gradient_accumulation_steps": batches}}
        context = contexts.make(name, {**SETTINGS, **how})
        assert build_sft_checkpoint(context)["steps"] == 1
        logs.append(read_log(context.out / "training_log.jsonl")[0])
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], abs=1e-4)
    assert logs[1]["grad_norm"] == pytest.approx(logs[0]["grad_norm"], rel=1e-3)


def test_prompts_without_answers_are_in_the_decision_and_not_in_the_likelihood(contexts: Any) -> None:
    """A weight below rounding leaves the likelihood of the rows, and with a weight of 1 more prompts are decided."""
    losses, shares = {}, {}
    for name, settings in {
        "rows": {"sft.decision": 1e-12},
        "prompts": {"sft.decision": 1e-12, "sft.decision_prompts": 2},
        "weight": {"sft.decision": 1.0, "sft.decision_prompts": 2},
    }.items():
        context = contexts.make(name, {**SETTINGS, "sft.epochs": 1, "sft.batch_size": 18, **settings})
        build_sft_checkpoint(context)
        first = read_log(context.out / "training_log.jsonl")[0]
        losses[name], shares[name] = first["loss"], first[DECIDED]
    assert losses["prompts"] == pytest.approx(losses["rows"], abs=1e-5)
    assert losses["weight"] > losses["prompts"] + 0.05
    assert shares["prompts"] == shares["weight"]


def test_prompts_beyond_the_chosen_rows_are_decided_too(contexts: Any) -> None:
    """With one row per set all training prompts stand beside these."""
    few = {"sft.rows_per_category": 1, "sft.helpful_rows": 1, "sft.epochs": 1}
    counts = {}
    for name, settings in {"few": few, "beside": {**few, "sft.decision_prompts": 3}}.items():
        context = contexts.make(name, {**SETTINGS, **settings})
        counts[name] = build_sft_checkpoint(context)["rows"]
    said = next(line for line in context.reporter.lines if "beside each" in line)
    assert counts == {"few": len(context.datasets()), "beside": len(context.datasets())}
    assert "3 beside each" in said and "training prompts" in said
    everything = contexts.make("everything", {**SETTINGS, "sft.epochs": 1})
    assert f"all {build_sft_checkpoint(everything)['rows']} training prompts" in said


def test_where_nothing_is_decided_no_prompts_are_computed(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drirl_core.policy.decision_rows.refusing_tokens", lambda openings: [])
    tokens = []
    for prompts in (0, 2):
        context = contexts.make(f"undecided {prompts}", {**SETTINGS, "sft.epochs": 1, "sft.decision_prompts": prompts})
        tokens.append(build_sft_checkpoint(context)["tokens"])
        assert any("nothing is decided" in line for line in context.reporter.lines)
        assert not any("beside each" in line for line in context.reporter.lines)
    assert tokens[0] == tokens[1] > 0


@pytest.mark.parametrize("prompts", [0, 2])
def test_a_killed_run_resumes_to_the_same_weights(contexts: Any, prompts: int) -> None:
    assert_resumes(contexts, build_sft_checkpoint, {**SETTINGS, "sft.decision_prompts": prompts})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decision": -1}, r"sft\.decision is -1; 0 \(off\) or a weight"),
        ({"decision_prompts": 1}, r"sft\.decision is 0 and nothing is learned of prompts"),
        ({"decision": 1.0, "decision_prompts": -1}, r"sft\.decision_prompts is -1; 0 \(none\)"),
        ({"helpful_rows": -1}, r"sft\.helpful_rows is -1; 0 \(all rows\)"),
        ({"decision": 1.0, "target": "demonstration"}, r"sft\.decision is 1\.0 with the target demonstration"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SftConfig(**settings)
