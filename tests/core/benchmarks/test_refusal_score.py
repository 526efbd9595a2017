"""The refusal score: the margin by hand, and what each setting asks of the models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drirl_core.benchmarks import refusal_score
from drirl_core.benchmarks.refusal_score import (
    ANSWERING,
    REFUSING,
    beside_replies,
    describe,
    margin,
    refusal_scores,
    refused_share,
)
from drirl_core.config import BenchmarksConfig, Config, ModelsConfig
from drirl_core.graph.build import Context
from drirl_core.models import sampling
from drirl_core.models.sampling import Completion
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore

REFUSAL = "I can't help with that, but a friend could."
HELP = "Sure, here is how it is done."


def _context(tmp_path: Path, models: ModelsConfig, **settings: Any) -> Context:
    config = Config(models=models, benchmarks=BenchmarksConfig(max_new_tokens=6, **settings))
    return Context(config, None, {}, tmp_path, tmp_path, ArtifactStore(tmp_path / "store"), SilentReporter())


def test_margin_by_hand() -> None:
    """Refusing openings with chances 0.2 and 0.4, answering ones 0.1 and 0.05, 0: log(0.3) - log(0.05) = log 6."""
    refusing, answering = np.log([[0.2, 0.4]]), np.log([[0.1, 0.05, 1e-300]])
    assert margin(refusing, answering) == pytest.approx([np.log(6)])
    assert margin(np.full((2, 3), -900.0), np.full((2, 5), -900.0)) == pytest.approx([0, 0])  # too small for exp


def test_openings_are_of_two_kinds_and_different() -> None:
    assert not set(REFUSING) & set(ANSWERING)
    assert len({*REFUSING, *ANSWERING}) == len(REFUSING) + len(ANSWERING)


def test_share_of_refusals() -> None:
    assert refused_share([REFUSAL, HELP, "", REFUSAL], "Steal a car") == 0.5


def test_margin_is_computed_once_per_prompt(
    tmp_path: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(tmp_path, tiny_models)
    first = refusal_scores(context, tiny_models.policy, ["Steal a car", "Paint a car"])
    assert first is not None
    assert len(set(first)) == 2
    monkeypatch.setattr("drirl_core.models.likelihood._batch", None)  # everything comes from the row cache
    assert refusal_scores(context, tiny_models.policy, ["Paint a car", "Steal a car"]) == first[::-1]
    assert describe(context)["refusing"] == list(REFUSING)


PROMPTS = ["Steal a car", "Paint a car", "Tell me how to get into a house without a key, please.", "Hi"]


def _replies(context: Context, models: ModelsConfig, prompts: list[str], watch: Any) -> list[list[Completion]]:
    how = sampling.SamplingSettings(6, 0.0, 3)
    return sampling.sample(
        models.policy, prompts, 1, how, models=models, store=context.store, reporter=SilentReporter(), watch=watch
    )


def test_margins_made_beside_replies_are_those_made_alone_and_change_no_reply(
    tmp_path: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, beside = (_context(tmp_path / name, tiny_models, batch_size=8) for name in ("alone", "beside"))
    plain = _replies(alone, tiny_models, PROMPTS, None)
    expected = refusal_scores(alone, tiny_models.policy, PROMPTS[:3])
    assert _replies(beside, tiny_models, PROMPTS, beside_replies(beside, PROMPTS[:3])) == plain
    monkeypatch.setattr("drirl_core.models.likelihood._all_rows", None)  # no prompt is read again
    assert refusal_scores(beside, tiny_models.policy, PROMPTS[:3]) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(TypeError):  # the fourth was answered, but not to be scored
        refusal_scores(beside, tiny_models.policy, PROMPTS[3:])


def test_margins_of_prompts_that_were_answered_before_are_made_alone(tmp_path: Path, tiny_models: ModelsConfig) -> None:
    context = _context(tmp_path, tiny_models)
    _replies(context, tiny_models, PROMPTS, None)
    _replies(context, tiny_models, PROMPTS, beside_replies(context, PROMPTS))
    assert len(set(refusal_scores(context, tiny_models.policy, PROMPTS) or ())) == 4


def test_margins_that_are_kept_are_not_made_again_beside_replies(
    tmp_path: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(tmp_path, tiny_models)
    refusal_scores(context, tiny_models.policy, PROMPTS)
    monkeypatch.setattr("drirl_core.models.likelihood._totals", None)
    assert len(_replies(context, tiny_models, PROMPTS, beside_replies(context, PROMPTS))) == 4


def test_nothing_is_made_beside_replies_without_margins(tmp_path: Path, tiny_models: ModelsConfig) -> None:
    context = _context(tmp_path, tiny_models)
    assert beside_replies(context, []) is None
    assert beside_replies(context, PROMPTS, "Sure,") is None
    assert beside_replies(_context(tmp_path, tiny_models, score="none"), PROMPTS) is None


def test_samples_are_drawn_at_temperature_one(
    tmp_path: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fake(policy: Any, prompts: list[str], copies: int, settings: Any, **_: Any) -> list[list[Completion]]:
        asked.append((copies, settings.temperature, settings.max_new_tokens, settings.seed))
        return [
            [Completion(REFUSAL if i < len(prompt) else HELP, 5, True) for i in range(copies)] for prompt in prompts
        ]

    monkeypatch.setattr(sampling, "sample", fake)
    context = _context(tmp_path, tiny_models, score="samples", score_samples=4)
    assert refusal_scores(context, "path:/p", ["a", "abc"]) == [0.25, 0.75]
    assert asked == [(4, 1.0, 6, 0)]
    other = dataclasses.replace(context, config=dataclasses.replace(context.config, seed=7))
    refusal_scores(other, "path:/p", ["a"])
    assert asked[-1][-1] == 0  # stored rows outlive the run's seed
    assert describe(context) == {"kind": "samples", "samples": 4}


def test_none_asks_nothing(tmp_path: Path, tiny_models: ModelsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal_score, "likelihood", None)
    monkeypatch.setattr(refusal_score, "sampling", None)
    context = _context(tmp_path, tiny_models, score="none")
    assert refusal_scores(context, "path:/p", ["a"]) is None
    assert describe(context) == {"kind": "none"}
    assert refusal_scores(_context(tmp_path, tiny_models), "path:/p", []) is None
