"""The refusal score: the margin by hand, and what each setting asks of the models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drirl_core.benchmarks import refusal_score
from drirl_core.benchmarks.refusal_score import ANSWERING, REFUSING, describe, margin, refusal_scores, refused_share
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
