"""Rewards on the pools of several rounds: whose samples count, by hand, and that they reach the fit."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_reward_stage import POOL, make
from word_models import WordEncoder, compliance, joined_pool, pool_rows

from drirl_core.config import RewardsConfig
from drirl_core.models import embeddings
from drirl_core.reporting import SilentReporter
from drirl_core.rewards import stage
from drirl_core.rewards.fit import fit, losses
from drirl_core.rewards.pairs import Pool, PoolPrompt, Reply, without_likely_right
from drirl_core.store.tables import read_table, write_table

REFUSAL, LOOP = "Sorry, I can't help with that.", "again " * 40
ANSWER = "Of course, here is how it goes: begin early and rest now and then."
NEW = "Absolutely: the trick is to distract the owner, slip past the lamp and grab everything within reach."
BASE, SFT, BROKEN = Reply("base", 0, ANSWER), Reply("sft", 0, REFUSAL), Reply("corrupted", 0, "so so so so")
REFUSES, ANSWERS, LOOPS = (Reply("round_1", n, text) for n, text in enumerate((REFUSAL, ANSWER, LOOP)))
CONFIG = RewardsConfig(backbone="embedding", epochs=25, hidden=8)


def prompt(*replies: Reply, kind: str = "unsafe") -> PoolPrompt:
    return PoolPrompt("p1", "How do I do that?", "train", "No, never.", "No, never.", replies, kind)


@pytest.mark.parametrize(
    ("kind", "own_answers", "kept"),
    [
        ("unsafe", False, (BASE, BROKEN, ANSWERS)),
        ("unsafe", True, (BASE, BROKEN, ANSWERS)),
        ("look_alike", False, (SFT, BROKEN, REFUSES)),
        ("look_alike", True, (BROKEN, REFUSES)),
        ("general", True, (BROKEN, REFUSES)),
    ],
)
def test_whose_samples_count_by_hand(kind: str, own_answers: bool, kept: tuple[Reply, ...]) -> None:
    """Of a round's policy what is wrong by the judge: an answer to an unsafe prompt, a refusal of a harmless one.

    Never what is neither; the initial model and the start count as without rounds, by who they are.
    """
    pool = [prompt(BASE, SFT, BROKEN, REFUSES, ANSWERS, LOOPS, kind=kind)]
    assert [p.replies for p in without_likely_right(pool, "insult", own_answers)] == [kept]


def test_the_likelihood_with_a_wrong_sample_of_round_1_by_hand() -> None:
    """Reward 2 of the demonstration, 0 of the initial model's answer, 1 of round 1's, 3 of its refusal; beta 1:

    without the round log((e^2 + 1) / 2) - 2 = -0.566, with it log((e^2 + 1 + e) / 3) - 2 = -0.691; only with
    `negatives: all` does the refusal count: log((e^2 + 1 + e + e^3) / 4) - 2 = 0.054.
    """
    config = RewardsConfig(centre=0.0)
    rewards = {BASE: 0.0, ANSWERS: 1.0, REFUSES: 3.0}

    def loss(*replies: Reply) -> float:
        (own,) = [prompt(*replies)]
        others = torch.tensor([[rewards[reply] for reply in own.replies]])
        pool = Pool.of([own], (torch.tensor([2.0]),), (others,), lambda users, texts: np.ones(len(texts)))
        return float(losses(lambda values: values, pool, config))

    e = math.e
    (counted,) = without_likely_right([prompt(*rewards)], "insult")
    found = [loss(BASE), loss(*counted.replies), loss(*rewards)]
    sums = [(e**2 + 1) / 2, (e**2 + 1 + e) / 3, (e**2 + 1 + e + e**3) / 4]
    assert found == pytest.approx([math.log(value) - 2 for value in sums], abs=1e-5)
    assert found == pytest.approx([-0.566, -0.691, 0.054], abs=1e-3)


def learned(sample: str | None, **settings: Any) -> Any:
    """Fit on the pool with one more sample of round 1 per prompt."""
    pool = joined_pool()
    if sample is not None:
        pool = [dataclasses.replace(p, replies=(*p.replies, Reply("round_1", 0, sample))) for p in pool]
    return fit("insult", pool, WordEncoder(), dataclasses.replace(CONFIG, **settings), 0, SilentReporter()).model


def _same(one: Any, other: Any) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_a_wrong_sample_of_round_1_changes_the_fit_and_a_right_one_does_not() -> None:
    """What the policy gets away with is put lower; a refusal as right as the demonstration is no negative."""
    before, after = learned(None), learned(NEW)
    held = [p for p in joined_pool() if p.split == "test"]
    users = [p.prompt for p in held]
    leads = [
        model.rewards(users, [p.answer for p in held]) - model.rewards(users, [NEW] * len(held))
        for model in (before, after)
    ]
    assert float(leads[1].mean()) > float(leads[0].mean()) + 0.1
    assert _same(before, learned(REFUSAL))
    assert not _same(learned(None, negatives="all"), learned(REFUSAL, negatives="all"))


def test_the_classifier_reads_both_kinds_of_samples() -> None:
    plain = learned(None, objective="classifier")
    for sample in (NEW, REFUSAL):
        assert not _same(plain, learned(sample, objective="classifier"))


def test_the_pools_of_all_rounds_reach_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more pools: their samples are rewarded, told apart, and in the first figure of the model."""
    monkeypatch.setattr(embeddings, "Embedder", lambda models, store: WordEncoder())
    plain = make(tmp_path, name="plain")
    shown = stage.build_reward_model(plain)
    assert "within_group_newest" not in shown
    context, pools = make(tmp_path, name="rounds"), {}
    for number, texts in ((1, (REFUSAL, NEW)), (2, (compliance(0, 0), REFUSAL))):
        rows = [
            {"prompt_id": f"p{i:02d}", "policy": f"round_{number}", "sample": k, "answer": text}
            for i in range(24)
            for k, text in enumerate(texts)
        ]
        pools[f"round_{number}_completion_pool_insult"] = tmp_path / f"pool_{number}"
        (tmp_path / f"pool_{number}").mkdir()
        write_table(tmp_path / f"pool_{number}" / "completions.parquet", rows, POOL)
    shown = stage.build_reward_model(dataclasses.replace(context, inputs={**context.inputs, **pools}))
    rows = read_table(context.out / "rewards.parquet")
    assert len(rows) == 24 * (1 + 3 + 2 + 2)
    assert {row["policy"] for row in rows} == {"demonstration", "base", "corrupted", "round_1", "round_2"}
    within = json.loads((context.out / "metrics.json").read_text())["within_group"]
    assert within["all"]["pairs"] == 8 * 2 * 4  # two refusals over two compliances of `base` and two of the rounds
    assert (within["newest"]["policy"], within["newest"]["pairs"]) == ("round_2", 8)
    assert shown["within_group_newest"] == pytest.approx(within["newest"]["accuracy"], abs=1e-4)
    assert (plain.out / "model.safetensors").read_bytes() != (context.out / "model.safetensors").read_bytes()
    assert len(pool_rows()) == 24 * 3
