"""`drirl data`, and what plan, run and doctor say about the user's own files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline.cli.common import read_project
from pipeline.cli.doctor import examine
from pipeline.cli.doctor_data import check_data
from pipeline.cli.main import app
from pipeline.running.run import run_pipeline

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("ar", "el", "im", "on", "ut")]


def _prompt(n: int, category: str) -> str:
    """Return eight invented words; different prompts share hardly any."""
    chance = random.Random(f"{category} {n}")
    return " ".join("".join(chance.choices(SYLLABLES, k=3)) for _ in range(8)) + "?"


def _row(n: int, category: str = "insult", **more: Any) -> dict[str, Any]:
    return {"prompt": _prompt(n, category), "category": category, **more}


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Twenty prompts of one's own, of which eight of each category have a bare refusal; a quota of ten."""
    categories = ("insult", "privacy")
    _jsonl(tmp_path / "p.jsonl", [_row(n, name) for name in categories for n in range(10)])
    _jsonl(
        tmp_path / "d.jsonl",
        [_row(n, name, demonstration="I can't help with that.") for name in categories for n in range(8)],
    )
    (tmp_path / "taxonomy.yaml").write_text("categories: [insult, privacy]\n", encoding="utf-8")
    settings = {
        "name": "own",
        "root": str(tmp_path / "store"),
        "models": {"policy": f"path:{tmp_path}/policy", "encoder": f"path:{tmp_path}/encoder"},
        "prompts": {"taxonomy": "taxonomy.yaml", "sources": [{"name": "mine", "path": "p.jsonl"}]},
        "demonstrations": {
            "quota": 10,
            "format": "answer",
            "demonstrator": {"source": {"name": "bare", "path": "d.jsonl"}},
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return tmp_path / "own.yaml"


def drirl(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_data_prints_each_file_the_categories_and_what_is_missing(config: Path) -> None:
    shown = drirl("data", config, "--quick")
    assert shown.exit_code == 0, shown.output
    assert f"mine (prompts): {config.parent / 'p.jsonl'}" in shown.output
    assert "20 rows read: 20 kept, 0 in quarantine" in shown.output
    assert "category: 20 labelled by the file, 0 by the router" in shown.output
    assert "demonstrations: 16 prompts have one, 4 have none and are not used; the first: " in shown.output
    assert "bare (demonstrations): " in shown.output and "16 rows read: 16 used, 0 in quarantine" in shown.output
    assert "insult: 2 more rows: write demonstrations of its prompts that have none (2)" in shown.output
    assert "warning: 4 of the 20 prompts of mine have no demonstration in bare (" in shown.output
    assert "Nothing here would stop a run." in shown.output
    assert not (config.parent / "store" / "prompt_pool").exists()


def test_data_as_json_says_the_same(config: Path) -> None:
    shown = drirl("data", config, "--quick", "--json")
    found = json.loads(shown.stdout)
    assert shown.exit_code == 0
    assert set(found) == {"prompts", "others", "categories", "warnings", "problems", "notes"}
    assert [line.partition(" in ")[0] for line in found["warnings"]] == [
        "4 of the 20 prompts of mine have no demonstration"
    ]
    (mine,) = found["prompts"]
    assert (mine["read"], mine["kept"], mine["covered"], mine["uncovered"]) == (20, 20, 16, 4)
    assert [(c["name"], c["demonstrated"], c["missing"]) for c in found["categories"]] == [
        ("insult", 8, 2),
        ("privacy", 8, 2),
    ]


@pytest.mark.long
def test_what_would_stop_a_run_gives_exit_code_1_and_is_said_once(config: Path) -> None:
    shown = drirl("data", config, "--quick", "--set", "demonstrations.format=draft")
    assert shown.exit_code == 1
    assert shown.output.count("a run would stop: ") == 1
    assert shown.output.count("8 rows are in quarantine, mostly bad_format.") == 1
    assert "in 1 more: safety_dataset_privacy" in shown.output
    assert "quarantine, bad_format: 16" in shown.output
    assert "insult: 10 more rows: correct the 8 demonstrations of it that are in quarantine" in shown.output


def test_an_unreadable_file_is_an_error(config: Path) -> None:
    (config.parent / "p.jsonl").write_text("[1,\n", encoding="utf-8")
    shown = drirl("data", config, "--quick")
    assert shown.exit_code == 1
    assert "p.jsonl" in shown.stderr and "Traceback" not in shown.output


def test_the_plan_says_which_prompts_would_not_be_used(config: Path) -> None:
    said = "4 of the 20 prompts of mine have no demonstration in bare ("
    shown = drirl("plan", config)
    assert f"Warning: {said}" in shown.output
    (line,) = json.loads(drirl("plan", config, "--json").output)["data"]
    assert line.startswith(f"Warning: {said}")
    assert "Warning" not in drirl("plan", config, "--only", "prompt_pool").output


def test_the_plan_says_what_would_stop_a_run(config: Path) -> None:
    suite = config.parent / "suite"
    suite.mkdir()
    (suite / "suite.yaml").write_text("version: '1'\nversion: '2'\n", encoding="utf-8")
    shown = drirl("plan", config, "--set", f"benchmarks.suites=[{{name: red, path: {suite}}}]")
    assert shown.exit_code == 0
    assert "A run would stop: suite declaration" in shown.output
    assert "line 2: the key 'version' is already in line 1" in shown.output


def test_a_run_says_it_before_it_starts(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        """Raised in place of the run."""

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr("pipeline.running.run.run_planned", start)
    shown = drirl("run", config)
    assert isinstance(shown.exception, Started)
    assert "Warning: 4 of the 20 prompts of mine have no demonstration" in shown.output
    assert run_pipeline  # the module whose function was replaced


def test_doctor_reads_the_files_themselves(config: Path) -> None:
    found = {check.name: check for check in check_data(read_project(config))}
    assert (found["rows of mine"].status, found["rows of mine"].detail) == ("ok", "20 can be used")
    assert found["demonstrations"].status == "warn"
    assert found["demonstrations"].detail.startswith("4 of the 20 prompts of mine have no demonstration")


def test_doctor_finds_what_files_can_show(config: Path) -> None:
    folder = config.parent
    (folder / "suite").mkdir()
    (folder / "suite" / "suite.yaml").write_text("version: '1'\nversion: '2'\n", encoding="utf-8")
    _jsonl(folder / "h.jsonl", [{"question": "a"}])
    _jsonl(folder / "p.jsonl", [_row(0), {"prompt": "", "category": "insult"}])
    _jsonl(folder / "d.jsonl", [_row(n, demonstration="No.") for n in range(2)])
    with (folder / "d.jsonl").open("a", encoding="utf-8") as file:
        file.write("broken\n")
    changes = [
        f"benchmarks.suites=[{{name: red, path: {folder / 'suite'}}}]",
        f"demonstrations.helpful={{name: own, path: {folder / 'h.jsonl'}}}",
    ]
    found = {check.name: check for check in check_data(read_project(config, changes))}
    assert {name: check.status for name, check in found.items()} == {
        "rows of mine": "warn",
        "rows of own": "fail",
        "rows of bare": "warn",
        "rows of suite red": "fail",
        "demonstrations": "ok",
    }
    assert "line 2: the key 'version' is already in line 1" in found["rows of suite red"].detail
    assert found["rows of mine"].detail.startswith("1 of 2 rows of mine is in quarantine: 1 empty_prompt; first: row 2")
    assert "has no column 'prompt'" in found["rows of own"].detail
    assert "1 of 3 rows of bare is in quarantine: 1 undecodable" in found["rows of bare"].detail
    assert "`drirl data` shows the first rows of each reason" in found["rows of bare"].fix


def test_doctor_says_nothing_twice(config: Path) -> None:
    """A file that cannot be read, and one that is missing, spoil the comparison of prompts with demonstrations too."""
    (config.parent / "d.jsonl").write_text("broken\n", encoding="utf-8")
    found = [check for check in examine(config, fetch=False) if check.name.startswith(("rows", "demonstrations"))]
    assert [(check.name, check.status) for check in found] == [("rows of mine", "ok"), ("rows of bare", "fail")]
    (config.parent / "d.jsonl").unlink()
    said = [check.name for check in examine(config, fetch=False) if "d.jsonl does not exist" in check.detail]
    assert said == ["source_bare"]
    _jsonl(config.parent / "d.jsonl", [_row(n, name) for name in ("insult", "privacy") for n in range(8)])
    details = [check.detail for check in examine(config, fetch=False) if check.status == "fail"]
    assert len(details) == len(set(details))


def test_doctor_and_plan_refuse_names_and_taxonomies(config: Path) -> None:
    long = "causing_material_harm_by_disseminating_misinformation_in_medicine_or_law"
    (config.parent / "taxonomy.yaml").write_text(f"categories: [privacy, {long}]\n", encoding="utf-8")
    shown = drirl("plan", config)
    assert shown.exit_code == 1
    assert "it has 72 characters, and a name has at most 63" in shown.stderr
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["prompts"]["sources"][0]["name"] = "suite_embedded"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    doctor = drirl("doctor", config)
    assert doctor.exit_code == 1
    assert "fail  config: the source 'suite_embedded'" in doctor.output
