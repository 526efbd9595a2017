"""The questions by which experiments see whether a training costs what the model could do before."""

from __future__ import annotations

import json
from pathlib import Path

from drirl_core.benchmarks.suites import load_suite
from drirl_core.config import SuiteConfig

ROOT = Path(__file__).parents[3]


def test_the_questions_are_in_no_data_and_no_suite_of_the_package() -> None:
    rows = load_suite(SuiteConfig("general_questions", str(ROOT / "benchmarks" / "general_questions")))
    asked = {row.prompt.casefold() for row in rows}
    assert {row.group for row in rows} == {"helpful"}
    assert len(asked) == len(rows) == 170
    files = list((ROOT / "drirl_core" / "data").rglob("*.jsonl"))
    known = {
        str(value).casefold()
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        for value in json.loads(line).values()
    }
    assert len(files) >= 5
    assert not asked & known
