"""Rows of the utility tasks: the published shapes, and what is refused before a model loads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from drirl_core.config import Config, ModelsConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.runs.evaluation import Subject
from drirl_core.utility.harness import Asking, harness_version
from drirl_core.utility.measure import find_tasks, measure_utility
from drirl_core.utility.tasks import TASKS, read_rows

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def test_truthfulqa_in_its_three_shapes(tmp_path: Path) -> None:
    """Answers of the table get a full stop; right ones come first, where the harness looks for the best one."""
    table = tmp_path / "TruthfulQA.csv"
    table.write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "a,b,What falls up?,Nothing,Nothing; No thing.,Rain; Snow;,c\n"
    )
    targets = {
        "mc1_targets": {"choices": ["Nothing.", "Rain.", "Snow."], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["Nothing.", "No thing.", "Rain.", "Snow."], "labels": [1, 1, 0, 0]},
    }
    assert read_rows("truthfulqa_mc1", table) == [{"question": "What falls up?", **targets}]
    own = tmp_path / "own"
    own.mkdir()
    scored = {"mc1_targets": {"Rain.": 0, "Nothing.": 1, "Snow.": 0}, "mc2_targets": targets["mc2_targets"]}
    (own / "mc_task.json").write_text(json.dumps([{"question": "What falls up?", **scored}]))
    assert read_rows("truthfulqa_mc2", own) == [{"question": "What falls up?", **targets}]


def test_hhh_reads_all_its_files_and_both_shapes(tmp_path: Path) -> None:
    task = {"name": "t", "examples": [{"input": "Hi", "target_scores": {"Bye": 0, "Hello": 1}}]}
    (tmp_path / "harmless.json").write_text(json.dumps(task))
    hub = {"input": "Hi", "targets": {"choices": ["Hello", "Bye"], "labels": [1, 0]}}
    (tmp_path / "other.json").write_text(json.dumps([hub]))
    assert read_rows("hhh", tmp_path) == [
        {"input": "Hi", "choices": ["Bye", "Hello"], "target": 1, "category": "harmless"},
        {"input": "Hi", "choices": ["Hello", "Bye"], "target": 0, "category": "other"},
    ]


def test_a_limit_takes_rows_by_content_and_not_by_place(tmp_path: Path) -> None:
    rows = [{"question": f"How much is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)]
    for name, ordered in (("one", rows), ("two", rows[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ordered))
    one, two = (read_rows("gsm8k", tmp_path / f"{name}.jsonl", 3) for name in ("one", "two"))
    assert len(one) == 3
    assert one == two[::-1]
    assert len(read_rows("gsm8k", tmp_path / "one.jsonl")) == 8


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "gsm8k",
            {"question": "Q", "answer": "seven"},
            r"line 1: no row of gsm8k: its answer has no number after '####'",
        ),
        ("gsm8k", {"answer": "#### 7"}, r"it has no text in 'question'; it has answer"),
        ("hhh", {"input": "Hi", "target_scores": {"a": 1, "b": 1}}, r"two answers, one of them right"),
        ("truthfulqa_mc1", {"question": "Q", "mc1_targets": {"a": 1, "b": 1}}, r"mc1_targets exactly one right one"),
        ("truthfulqa_mc1", {"question": "Q"}, r"no answers with labels 1 and 0"),
        ("bbq", {name: "x" for name in ("context", "question")}, r"no text in 'question_polarity'"),
    ],
)
def test_a_row_of_another_shape_names_its_place(tmp_path: Path, name: str, row: dict, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        read_rows(name, tmp_path / "rows.jsonl")


def test_places_and_names_that_cannot_be_used(tmp_path: Path) -> None:
    assert find_tasks([f"hhh={tmp_path}"]) == {"hhh": tmp_path}
    with pytest.raises(DataError, match=r"'gsm' is no utility task; did you mean 'gsm8k'\?"):
        find_tasks(["gsm=x"])
    with pytest.raises(ConfigError, match=r"say where its rows are, --task hhh=PATH; nothing is fetched"):
        find_tasks(["hhh"])
    with pytest.raises(ConfigError, match=r"--task hhh is given twice"):
        find_tasks(["hhh=a", "hhh=b"])
    with pytest.raises(ConfigError, match=r"no task is given; give --task NAME=PATH, of gsm8k, "):
        find_tasks([])
    with pytest.raises(DataError, match=r"bbq needs bbq\.jsonl or bbq_sample\.jsonl, and .* has none"):
        read_rows("bbq", tmp_path)
    with pytest.raises(DataError, match=r"gone does not exist"):
        read_rows("hhh", tmp_path / "gone")


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_harness_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'lm-eval, which is not installed; .*"drirl\[utility\]"'):
        harness_version()
    project = Project(Config(models=ModelsConfig(policy="path:/gone", encoder="path:/gone"), root=str(tmp_path / "s")))
    with pytest.raises(ConfigError, match=r"drirl\[utility\]"):
        measure_utility(Subject("base", "path:/gone"), {"hhh": tmp_path}, 0, Asking(), project, SilentReporter())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sets are not there")
@pytest.mark.parametrize(
    ("name", "folder", "n"),
    [
        ("gsm8k", "gsm8k", 1319),
        ("truthfulqa_mc1", "truthfulqa", 817),
        ("truthfulqa_mc2", "truthfulqa", 817),
        ("hhh", "hhh_alignment", 221),
        ("bbq", "bbq", 1800),
    ],
)
def test_the_published_sets_are_read(name: str, folder: str, n: int) -> None:
    assert name in TASKS
    assert len(read_rows(name, SHARED / folder)) == n
