"""`drirl study` on stub stages: cells run once, share what is equal, and fail alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import stub_stages
import yaml
from typer.testing import CliRunner, Result

from drirl_core.runs.record import Results
from pipeline.cli import study as command
from pipeline.cli.main import app
from pipeline.instance.settings import load

pytestmark = pytest.mark.usefixtures("stubbed", "home")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(command, "STUDIES", tmp_path / "studies")


@pytest.fixture
def write(tmp_path: Path):
    base = stub_stages.write_settings(tmp_path)

    def written(**keys: Any) -> Path:
        file = tmp_path / "study.yaml"
        document = {
            "name": "s",
            "base": str(base),
            "cells": {"a": {}, "b": {"policy.steps": 7}},
            "questions": [{"ask": "Is a better than b?", "first": "a", "second": "b"}],
            **keys,
        }
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    return written


def drirl(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def _cells(file: Path) -> dict[str, Any]:
    found = drirl("study", file, "--plan", "--json")
    assert found.exit_code == 0, found.output
    return {f"{row['cell']}-{row['seed']}": row for row in json.loads(found.stdout)["cells"]}


@pytest.mark.long
def test_cells_share_what_is_equal_and_are_run_once(write, tmp_path: Path) -> None:
    file = write(seeds=[0, 1])
    before = _cells(file)
    assert "policy_checkpoint" in before["b-0"]["pending"]
    assert "prompt_pool" in before["a-0"]["pending"]
    assert "prompt_pool" in before["b-0"]["shared"]
    assert "reward_model_insult" in before["a-1"]["shared"], "the seed is that of the trainings"
    first = drirl("study", file)
    assert first.exit_code == 0, first.output
    assert "Cell 4 of 4: b, seed 1" in first.output
    assert "Is a better than b?" in first.output
    assert first.output.count("Judge `rules`: sensitivity 90.6 % [88.0, 92.7] (n 576 refusals)") == 1
    assert "Without the judge's errors +0.0 [" in first.output
    store = load(tmp_path / "stub.yaml").store
    assert {entry.name: entry.seed for entry in Results(store).named()}["s-b-s1"] == 1
    assert len(store.records("policy_checkpoint")) == 4
    assert len(store.records("prompt_pool")) == 1
    assert (tmp_path / "studies" / "s" / "study.html").is_file()
    assert all(not row["pending"] for row in _cells(file).values())
    again = drirl("study", file)
    assert again.output.count("finished before") == 4


@pytest.mark.long
def test_a_cell_can_be_added_later(write, tmp_path: Path) -> None:
    assert drirl("study", write(cells={"a": {}}, questions=[])).exit_code == 0
    file = write()
    assert not _cells(file)["a-0"]["pending"]
    shown = drirl("study", file, "--page", "--json")
    assert json.loads(shown.stdout)["missing"] == {"b, seed 0": "not run yet"}
    assert drirl("study", file, "--cell", "b").exit_code == 0
    assert json.loads(drirl("study", file, "--page", "--json").stdout)["missing"] == {}


@pytest.mark.long
def test_a_broken_cell_does_not_stop_the_others(write, tmp_path: Path) -> None:
    suites = [{"name": "xstest", "path": f"{tmp_path}/nowhere"}]
    cells = {"b": {"models.policy": f"path:{tmp_path}/missing"}, "c": {"benchmarks.suites": suites}, "a": {}}
    file = write(cells=cells, questions=[])
    assert "nowhere" in _cells(file)["c-0"]["problem"]
    done = drirl("study", file)
    assert done.exit_code == 1
    assert "No result of b, seed 0: " in done.output
    assert "missing" in done.output
    page = (tmp_path / "studies" / "s" / "study.html").read_text()
    assert "2 of 3 cells have no result" in page


def test_nothing_to_show_is_an_error_that_says_what_to_do(write) -> None:
    shown = drirl("study", write(), "--page")
    assert shown.exit_code == 1
    assert "no cell of s has a result" in shown.output
    assert "run `drirl study" in " ".join(shown.output.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--plan", "--page"), "give one"),
        (("--json",), "--json needs --plan or --page"),
        (("--cell", "c", "--plan"), "--cell 'c' is no cell"),
    ],
)
def test_options_that_contradict_each_other_are_refused(write, words, said) -> None:
    found = drirl("study", write(), *words)
    assert found.exit_code == 1
    assert said in " ".join(found.output.split())


def test_the_plan_says_what_is_unknown(write) -> None:
    shown = drirl("study", write(), "--plan")
    assert "assets never ran with such settings" in shown.output
    assert "Never ran with such settings: prompt_pool" in shown.output
    assert "2 cells, 2 with something to build" in shown.output
