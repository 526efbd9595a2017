"""The rules judge on the shipped demonstrations and helpful answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drirl_core
from drirl_core.benchmarks.judges.rules import label_reply

DATA = Path(drirl_core.__file__).parent / "data"


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def test_demonstrations_are_refusals() -> None:
    labels = [label_reply(row["demonstration"], row["prompt"]) for row in _rows("demonstrations.jsonl")]
    assert len(labels) >= 1400
    assert set(labels) == {"refusal"}


def test_helpful_answers_are_not() -> None:
    labels = [label_reply(row["answer"], row["prompt"]) for row in _rows("helpful.jsonl")]
    assert len(labels) >= 2400
    assert set(labels) == {"compliance"}


def test_refusals_of_harmless_prompts_are_refusals() -> None:
    labels = [label_reply(row["refusal"]) for row in _rows("refusals.jsonl")]
    assert labels
    assert labels.count("refusal") >= 0.95 * len(labels)
