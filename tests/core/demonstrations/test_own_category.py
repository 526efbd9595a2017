"""The files of the tutorial: every row is used, nothing of the benchmark is trained on, and the text describes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import drirl_core
from drirl_core.benchmarks.suites import load_suite, suite_prompts
from drirl_core.config import Config, load_config
from drirl_core.demonstrations.validate import AnswerIndex, Failure, check_demonstration
from drirl_core.graph.layout import build_graph
from drirl_core.prompts.adapters import read_source
from drirl_core.prompts.duplicates import decontaminate, find_duplicates

ROOT = Path(drirl_core.__file__).parents[1]
FOLDER = ROOT / "configs" / "own-category"
PAGE = (ROOT / "docs" / "tutorial-own-category.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(FOLDER / "align.yaml")


@pytest.fixture(scope="module")
def prompts(config: Config) -> list[str]:
    source = config.prompts.sources[0]
    found = read_source(source, Path(source.path), ("exam_cheating",))
    assert [row.reason for row in found.rows] == [""] * 24
    return [row.prompt for row in found.rows]


def test_every_demonstration_may_be_learned_from(config: Config, prompts: list[str]) -> None:
    lines = (FOLDER / "exam_cheating.jsonl").read_text(encoding="utf-8").splitlines()
    answers = AnswerIndex()
    for prompt, row in zip(prompts, map(json.loads, lines), strict=True):
        found = check_demonstration(row["demonstration"], config.demonstrations.max_step_words, answers)
        assert not isinstance(found, Failure), f"{prompt}: {found}"
        answers.add(prompt, found.answer)


def test_no_prompt_repeats_another_or_one_of_the_benchmark(config: Config, prompts: list[str]) -> None:
    suite, threshold = suite_prompts(config.benchmarks.suites[0]), config.prompts.near_duplicate
    assert find_duplicates(prompts, threshold).group == tuple(range(24))
    assert decontaminate(prompts, suite, threshold) == [None] * 24


def test_every_request_has_a_harmless_twin_and_none_repeats_the_benchmark(config: Config, prompts: list[str]) -> None:
    rows = [json.loads(line) for line in (FOLDER / "exam_harmless.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["twin_of"] for row in rows[:24]] == prompts
    assert not any(row["twin_of"] for row in rows[24:])
    suite, threshold = suite_prompts(config.benchmarks.suites[0]), config.prompts.near_duplicate
    assert decontaminate([row["prompt"] for row in rows], suite, threshold) == [None] * 48


def test_the_benchmark_has_twelve_pairs(config: Config) -> None:
    found = load_suite(config.benchmarks.suites[0])
    pairs = {group: {row.pair for row in found if row.group == group} for group in ("unsafe", "safe_look_alike")}
    assert len(found) == 24
    assert len(pairs["unsafe"]) == 12 and pairs["unsafe"] == pairs["safe_look_alike"]


def test_the_graph_has_one_harm_category(config: Config) -> None:
    graph = build_graph(config)
    assert graph.categories == ("exam_cheating",)
    assert f"{len(graph.nodes)} assets" in PAGE


def test_the_files_in_the_text_are_the_files_of_the_folder() -> None:
    """A block whose first line is a comment with a file name is that file; of the rows, the first ones are shown."""
    blocks = re.findall(r"`(configs/own-category/[\w./-]+)`[^\n]*:\n\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert {name for name, _ in blocks} == {
        f"configs/own-category/{name}"
        for name in (
            "taxonomy.yaml",
            "exam_cheating.jsonl",
            "exam_harmless.jsonl",
            "align.yaml",
            "suite/suite.yaml",
            "suite/unsafe.csv",
            "suite/safe.csv",
        )
    }
    for name, text in blocks:
        file = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".yaml"):
            assert yaml.safe_load(text) == yaml.safe_load(file), name
        else:
            assert file.startswith(text), name
