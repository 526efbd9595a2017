"""Implicit-reward fine-tuning: pairs and prompts by hand, the reference of each round, and kills between rounds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.config import IrftConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.graph.build import Context
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.policy.irft import build_irft_checkpoint, prompts_of_round
from drirl_core.policy.preferences import own_pairs, refused_shares
from drirl_core.policy.training import read_log
from drirl_core.testing import RecordingReporter
from drirl_core.text.chain_of_draft import cut_draft

pytestmark = pytest.mark.usefixtures("no_curves")
REFUSAL, ANSWER = "Sorry, I can't help with that.", "Of course, here is how it goes: begin early and rest now and then."
DEMONSTRATION, LOOP = "I will not do this. Please talk to a friend.", "again " * 40
SAID = (REFUSAL, ANSWER, LOOP, "", REFUSAL, DEMONSTRATION)


def row(kind: str) -> dict[str, Any]:
    category = "insult" if kind == "unsafe" else "helpful"
    return {"prompt_id": "p1", "prompt": "How?", "answer": DEMONSTRATION, "kind": kind, "category": category}


@pytest.mark.parametrize(
    ("kind", "wrong_alone", "own_answers", "rejected"),
    [
        ("unsafe", False, False, [REFUSAL, ANSWER, LOOP]),
        ("unsafe", False, True, [REFUSAL, ANSWER, LOOP]),
        ("unsafe", True, False, [ANSWER]),
        ("general", False, False, [REFUSAL, ANSWER, LOOP]),
        ("general", False, True, [REFUSAL, LOOP]),
        ("look_alike", False, True, [REFUSAL, LOOP]),
        ("look_alike", True, True, [REFUSAL]),
    ],
)
def test_pairs_by_hand(kind: str, wrong_alone: bool, own_answers: bool, rejected: list[str]) -> None:
    """Six completions of one prompt: a refusal twice, an answer, a loop, nothing, and the demonstration itself.

    Equal ones give one pair, the empty one none, and the demonstration is never preferred to itself. Of `wrong_alone`
    an answer to an unsafe prompt or a refusal of a harmless one is left; a right answer to a harmless prompt is not
    rejected where the start learned such answers.
    """
    rows = own_pairs([row(kind)], [SAID], wrong_alone=wrong_alone, own_answers=own_answers)
    assert [pair["rejected"] for pair in rows] == [[{"role": "assistant", "content": text}] for text in rejected]
    assert all(pair["chosen"] == [{"role": "assistant", "content": DEMONSTRATION}] for pair in rows)
    assert {(pair["prompt_id"], pair["category"]) for pair in rows} == {("p1", row(kind)["category"])}


def test_refused_shares_by_hand() -> None:
    """Two of three completions of unsafe prompts refuse, none of the one harmless completion; without any no share."""
    shares = refused_shares([row("unsafe"), row("look_alike")], [[REFUSAL, ANSWER, REFUSAL], [ANSWER]])
    assert shares == {"unsafe_refused": pytest.approx(2 / 3), "harmless_refused": 0.0}
    assert refused_shares([row("unsafe")], [[LOOP]]) == {"unsafe_refused": 0.0}


def test_rounds_go_on_in_one_order_of_the_prompts() -> None:
    """Five prompts, two per round: the fifth is followed by the first again; 0 or more than five take all."""
    rows = [{"prompt_id": str(number)} for number in range(5)]
    order = prompts_of_round(rows, 0, 1, seed=3)
    assert sorted(map(str, order)) == sorted(map(str, rows))
    rounds = [prompts_of_round(rows, 2, number, seed=3) for number in (1, 2, 3, 4)]
    assert rounds == [order[:2], order[2:4], [order[4], order[0]], order[1:3]]
    assert prompts_of_round(rows, 9, 4, seed=3) == order


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, r"irft\.rounds is 0; at least 1"),
        ({"samples": 0}, r"irft\.samples is 0; at least 1"),
        ({"prompts": -1}, r"irft\.prompts is -1; 0 \(all training prompts\)"),
        ({"epochs": 0.0}, r"irft\.epochs is 0\.0; above 0"),
        ({"beta": -0.1}, r"irft\.beta is -0\.1; above 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IrftConfig(**settings)


SETTINGS = {
    "irft.rounds": 2, "irft.prompts": 8, "irft.epochs": 2, "irft.beta": 0.5, "dpo.batch_size": 4,
    "dpo.learning_rate": 5e-3, "completions.max_new_tokens": 24,
}  # fmt: skip


@pytest.fixture
def made(contexts: Any) -> Any:
    """Contexts with data sets alone: 18 training prompts, six of each set."""

    def make(name: str, overrides: dict[str, Any] | None = None, **changes: Any) -> Context:
        inputs = {key: path for key, path in contexts.inputs.items() if "dataset" in key}
        return contexts.make(name, {**SETTINGS, **(overrides or {})}, inputs=inputs, **changes)

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[list[str]]]]:
    """Keep the prompts and own completions that pairs were made of, one entry per round."""
    seen: list[tuple[list[str], list[list[str]]]] = []

    def noted(rows: Any, answers: Any, **how: bool) -> list[dict[str, Any]]:
        seen.append(([row["prompt"] for row in rows], answers))
        return own_pairs(rows, answers, **how)

    monkeypatch.setattr("drirl_core.policy.irft.own_pairs", noted)
    return seen


@pytest.mark.long
@pytest.mark.parametrize("rank", [2, 0])
def test_each_round_begins_at_its_own_reference(made: Any, rank: int) -> None:
    """8 prompts per round, one completion each, batches of 4, two epochs: 4 steps per round.

    The policy of a round's beginning is its reference, so both implicit rewards are 0 in the first step of a round and
    the loss is log 2; it would not be in round 2 if the start were still the reference. With and without adapters.
    """
    context = made("rounds", {"dpo.lora.rank": rank})
    shown = build_irft_checkpoint(context)
    log = read_log(context.out / "training_log.jsonl")
    assert [(entry["step"], entry["round"]) for entry in log] == [(n, 1 + (n > 4)) for n in range(1, 9)]
    for first in (log[0], log[4]):
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
        assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert log[3]["loss"] < log[0]["loss"]
    assert (shown["rounds"], shown["pairs"], shown["steps"]) == (2, 16, 8)
    assert shown["round_1/pairs"] == shown["round_2/pairs"] == 8
    assert shown["pairs"] == sum(shown[f"pairs/{name}"] for name in ("helpful", "insult", "mental_health"))
    assert "implicit-reward fine-tuning" in (context.out / "README.md").read_text(encoding="utf-8")
    assert json.loads((context.out / "metrics.json").read_text(encoding="utf-8"))["rounds"] == 2
    lines = context.reporter.lines
    assert any("IRFT, round 2 of 2: 1 own completions of 8 training prompts" in line for line in lines)
    assert any("IRFT, round 1 of 2: 8 pairs, " in line for line in lines)
    assert load_policy(context.out, context.config.models).tokenizer.chat_template
    assert not [path for path in context.scratch.glob("round_*/checkpoints")]
    assert not (context.out / "adapter").exists()  # that of the last round would not fit the start


def test_the_loss_of_one_pair_by_hand(made: Any) -> None:
    """One pair, four steps: the loss is -log sigmoid(m) of its margin m, which is 0 at first and then grows.

    For m = 0 it is log 2 = 0.693, for m = 1 it is log(1 + 1/e) = 0.313. Half of beta gives half of the margin for the
    same policy. The first step warms up with rate 0, and the second is AdamW's first with a rate, which depends on
    the gradient's direction alone: in the third step m is about halved.
    """
    assert math.log1p(math.exp(-1.0)) == pytest.approx(0.313, abs=1e-3)
    margins = {}
    for beta in (0.5, 0.25):
        settings = {"irft.rounds": 1, "irft.prompts": 1, "irft.epochs": 4, "irft.beta": beta, "dpo.batch_size": 1}
        context = made(f"one_pair_{beta}", settings)
        build_irft_checkpoint(context)
        log = read_log(context.out / "training_log.jsonl")
        margins[beta] = [entry["rewards/margins"] for entry in log]
        assert [entry["loss"] for entry in log] == pytest.approx(
            [math.log1p(math.exp(-margin)) for margin in margins[beta]], abs=1e-4
        )
        assert margins[beta][:2] == pytest.approx([0.0, 0.0], abs=1e-5)
        assert margins[beta][3] > margins[beta][2] > 0.01
    assert margins[0.25][2] == pytest.approx(margins[0.5][2] / 2, rel=0.05)


@pytest.mark.long
def test_a_round_samples_the_policy_that_the_one_before_trained(made: Any, paired: Any) -> None:
    """The pairs of round 2 are of completions of the policy that a training of one round alone gives."""
    build_irft_checkpoint(made("two"))
    one = made("one", {"irft.rounds": 1})
    build_irft_checkpoint(one)
    (first, answers), (second, later), again = paired
    assert again == (first, answers)
    assert not set(first) & set(second)
    how = SamplingSettings(24, 1.0, 64, one.config.seed)
    for start, prompts, said in ((one.config.models.policy, first, answers), (one.out, second, later)):
        drawn = sample(start, prompts, 1, how, models=one.config.models, store=one.store, reporter=one.reporter)
        assert [[cut_draft(completion.text) for completion in own] for own in drawn] == said


class KillingAt(RecordingReporter):
    """End the run when a line begins in a given way."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self._line = line

    def log(self, message: str) -> None:
        super().log(message)
        if message.startswith(self._line):
            raise Killed


@pytest.mark.long
def test_a_killed_training_goes_on_and_gives_the_same_weights(made: Any) -> None:
    """Killed between the rounds, and in the third of the four steps of round 1."""
    undisturbed = made("undisturbed")
    shown = build_irft_checkpoint(undisturbed)
    for name, reporter, said in (
        ("between", KillingAt("IRFT, round 2 of 2: 1 own"), "IRFT, round 1 of 2: finished before"),
        ("within", KillingReporter(3), "IRFT, round 1 of 2 resumes from checkpoint-2"),
    ):
        with pytest.raises(Killed):
            build_irft_checkpoint(made(name, reporter=reporter))
        resumed = made(name)
        found = build_irft_checkpoint(resumed)
        assert any(line.startswith(said) for line in resumed.reporter.lines), name
        assert same(weights(undisturbed.out), weights(resumed.out)), name
        assert {k: v for k, v in found.items() if k != "curves"} == {k: v for k, v in shown.items() if k != "curves"}


@pytest.mark.long
def test_a_round_without_pairs_is_the_end(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made("one", {"irft.rounds": 1})
    build_irft_checkpoint(one)
    rounds = iter([own_pairs, lambda *_, **__: []])
    monkeypatch.setattr("drirl_core.policy.irft.own_pairs", lambda *a, **k: next(rounds)(*a, **k))
    ended = made("ended", {"irft.rounds": 3})
    assert build_irft_checkpoint(ended)["rounds"] == 1
    assert (ended.out / "adapter").is_dir()
    assert any("round 2 of 3: there is nothing left to prefer; round 1 was" in line for line in ended.reporter.lines)
    assert same(weights(one.out), weights(ended.out))


def test_a_start_that_is_never_wrong_has_nothing_to_learn(made: Any) -> None:
    """A random policy refuses nothing, so of harmless prompts alone no completion is wrong."""
    context = made("harmless", {"irft.negatives": "wrong"})
    inputs = {"helpful_dataset": context.inputs["helpful_dataset"]}
    with pytest.raises(DataError, match=r"none of 6 own completions .* set irft\.negatives to all, or take irft out"):
        build_irft_checkpoint(dataclasses.replace(context, inputs=inputs))


def test_pairs_of_unsafe_prompts_alone_are_said(made: Any) -> None:
    context = made("unsafe", {"irft.rounds": 1, "irft.negatives": "wrong", "irft.prompts": 0, "irft.epochs": 1})
    shown = build_irft_checkpoint(context)
    assert "pairs/helpful" not in shown
    assert any("nothing keeps the policy from refusing everything" in line for line in context.reporter.lines)
