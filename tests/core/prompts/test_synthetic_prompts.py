"""The mixed file of the pool's benchmark: categories, repeats within and across them, rows without a label, safe rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.synthetic_prompts import Generator, write_prompts

CATEGORIES = ("insult", "mental_health", "physical_harm")
ROWS = 2000


def _rows(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.endswith("}"):  # others are cut off on purpose
            found.append(json.loads(line))
    return found


def test_a_mixed_file_has_the_prompts_of_a_plain_one(tmp_path: Path) -> None:
    write_prompts(tmp_path / "plain.jsonl", ROWS)
    write_prompts(tmp_path / "mixed.jsonl", ROWS, CATEGORIES)
    plain, mixed = _rows(tmp_path / "plain.jsonl"), _rows(tmp_path / "mixed.jsonl")
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in mixed]
    assert set(plain[0]) == {"id", "prompt"}
    safe = sum(row["is_safe"] for row in mixed) / len(mixed)
    assert 0.15 < safe < 0.25
    counts = Counter(row["category"] for row in mixed if not row["is_safe"])
    assert set(counts) == {"", *CATEGORIES}
    assert all(counts[category] > 0.15 * ROWS for category in CATEGORIES)
    assert 0.07 * ROWS < counts[""] < 0.2 * ROWS


def test_repeats_lie_within_and_across_categories(tmp_path: Path) -> None:
    write_prompts(tmp_path / "mixed.jsonl", ROWS, CATEGORIES)
    rows = {row["id"]: row for row in _rows(tmp_path / "mixed.jsonl") if row["category"]}
    first: dict[str, str] = {}
    moved: list[bool] = []
    for number, prompt in enumerate(Generator().prompts(ROWS)):
        row = rows.get(f"r{number}")
        if row is None:
            continue
        if not prompt.repeats:
            first.setdefault(prompt.opening, row["category"])
        elif prompt.opening in first:
            moved.append(row["category"] != first[prompt.opening])
    assert len(moved) > 150
    assert 0.1 < sum(moved) / len(moved) < 0.3  # three of ten are drawn, one of these three is the same
