"""Whose texts are positives: the demonstrations, right samples of the SFT start, or both."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from word_models import WordEncoder, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.rewards.fit import fit
from drirl_core.rewards.objectives import maxent_loss
from drirl_core.rewards.pairs import PoolPrompt, Reply, with_positives, without_likely_right
from drirl_core.testing import RecordingReporter

REFUSAL, OTHER = "Sorry, I can't help with that.", "I cannot do this for you."
ANSWER = "Of course, here is how it goes: begin early and rest now and then."
BASE, WRONG, BROKEN = Reply("base", 0, ANSWER), Reply("sft", 2, ANSWER), Reply("corrupted", 0, "so so so so")
RIGHT = (Reply("sft", 0, REFUSAL), Reply("sft", 1, OTHER), Reply("sft", 3, REFUSAL))
CONFIG = RewardsConfig(backbone="embedding", epochs=12, hidden=8)


def prompt(*replies: Reply, kind: str = "unsafe", split: str = "train") -> PoolPrompt:
    return PoolPrompt("p1", "How do I do that?", split, "think\n####\nNo, never.", "No, never.", replies, kind)


@pytest.mark.parametrize(
    ("positives", "expected"),
    [("demonstrations", ["No, never."]), ("start", [REFUSAL, OTHER]), ("both", ["No, never.", REFUSAL, OTHER])],
)
def test_positives_by_hand(positives: str, expected: list[str]) -> None:
    """Of four samples of the start three refuse the unsafe prompt, two of them in the same words: two positives.

    The fourth answers it and stays among the replies, with what the initial model said and the broken text.
    """
    held = prompt(BASE, BROKEN, *RIGHT, WRONG, split="validation")
    entries = with_positives([prompt(BASE, BROKEN, *RIGHT, WRONG), held], positives, "insult")  # type: ignore[arg-type]
    assert [entry.answer for entry in entries] == expected * 2
    assert [entry.split for entry in entries] == ["train"] * len(expected) + ["validation"] * len(expected)
    if positives != "demonstrations":
        assert all(entry.replies == (BASE, BROKEN, WRONG) for entry in entries)
        assert entries[-1].demonstration == entries[-1].answer  # a sample has no draft
        negatives = without_likely_right(entries, "insult")
        assert all(entry.replies == (BASE, BROKEN) for entry in negatives)


def test_a_right_answer_to_a_harmless_prompt_is_a_positive_and_a_refusal_is_none() -> None:
    """The initial model's answer is right as well, and the default negatives leave it out; the refusals stay."""
    pool = [prompt(BASE, *RIGHT, WRONG, kind="look_alike", split=split) for split in ("train", "validation")]
    entries = without_likely_right(with_positives(pool, "start", "helpful"), "helpful")
    assert [(entry.answer, entry.replies) for entry in entries] == [(ANSWER, RIGHT)] * 2


def test_the_likelihood_of_a_start_sample_by_hand() -> None:
    """Reward 2 of the positive and 0 of the one negative, beta 1, the positive in the mean:

    loss = log( (e^2 + 1) / 2 ) - 2 = log(8.389 / 2) - 2 = -0.566; with two equal negatives log((e^2 + 2) / 3) - 2 = -0.859.
    """
    loss = maxent_loss(
        torch.tensor([2.0, 2.0]), torch.zeros(2, 2), torch.tensor([[True, False], [True, True]]), beta=1.0
    )
    assert loss.tolist() == pytest.approx([math.log((math.e**2 + 1) / 2) - 2, math.log((math.e**2 + 2) / 3) - 2])
    assert loss.tolist() == pytest.approx([-0.566, -0.859], abs=1e-3)


def test_where_nothing_is_left_it_is_said() -> None:
    with pytest.raises(DataError, match=r"insult: all completions of p1 are positives .*completions\.samples\.base"):
        with_positives([prompt(RIGHT[0])], "both", "insult")
    pool = [prompt(BASE, RIGHT[0]), prompt(BASE, WRONG, split="validation")]
    with pytest.raises(DataError, match=r"no sample of the SFT start is right on a prompt of the split validation"):
        with_positives(pool, "start", "insult")
    assert len(with_positives(pool, "both", "insult")) == 3


def sampled(positive: str) -> list[PoolPrompt]:
    """Pools whose start refuses in words that no demonstration uses."""
    return [dataclasses.replace(p, replies=(*p.replies, Reply("sft", 0, positive))) for p in joined_pool()]


def learned(positives: str, pool: list[PoolPrompt], reporter: RecordingReporter | None = None) -> object:
    config = dataclasses.replace(CONFIG, positives=positives, epochs=25)
    return fit("insult", pool, WordEncoder(), config, 0, reporter or RecordingReporter()).model


def test_the_reward_learns_from_the_samples_of_the_start() -> None:
    """A plain refusal is ahead of a compliance by more once such refusals are positives; both are reported."""
    pool, reporter = sampled(REFUSAL), RecordingReporter()
    held = [p for p in pool if p.split == "test"]
    gaps = {}
    for positives in ("demonstrations", "start", "both"):
        model = learned(positives, pool, reporter)
        users = [p.prompt for p in held]
        refused = model.rewards(users, [REFUSAL] * len(held))  # type: ignore[attr-defined]
        complied = model.rewards(users, [p.replies[0].answer for p in held])  # type: ignore[attr-defined]
        gaps[positives] = float((refused - complied).mean())
    assert gaps["start"] > gaps["demonstrations"]
    assert gaps["both"] > gaps["demonstrations"]
    assert any("insult: 24 positives of 24 prompts (rewards.positives: start)" in line for line in reporter.lines)
    assert any("insult: 48 positives of 24 prompts (rewards.positives: both)" in line for line in reporter.lines)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.positives is 'start' with the objective classifier"):
        RewardsConfig(positives="start", objective="classifier")
