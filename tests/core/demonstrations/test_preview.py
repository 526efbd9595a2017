"""What `drirl data` counts: the same as the run, which calls the same code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataset_inputs import BENCHMARK_PROMPT, demonstration, demonstrations, jsonl, prompt

from drirl_core.demonstrations.preview import Preview, preview
from drirl_core.errors import DataError
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter

CATEGORIES = ("insult", "mental_health")


def _prompts(category: str, n: int) -> list[dict[str, Any]]:
    return [{"prompt": prompt((category, key)), "category": category} for key in range(n)]


def _written(category: str, *keys: object) -> list[dict[str, Any]]:
    return demonstrations(*((category, key) for key in keys), category=category)


def _project(folder: Path, prompts: list[dict[str, Any]], written: list[dict[str, Any]], **settings: Any) -> Project:
    harmless = [{"prompt": prompt(("harmless", key)), "answer": f"Gladly: {prompt(('good', key))}"} for key in range(6)]
    jsonl(folder / "p.jsonl", prompts)
    jsonl(folder / "d.jsonl", written)
    jsonl(folder / "h.jsonl", [*harmless, {"prompt": prompt("refused"), "answer": "I can't help with that."}])
    jsonl(folder / "r.jsonl", [{"refusal": "I can't help with that."}, {"refusal": "Here it is."}])
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump({"categories": list(CATEGORIES)}), encoding="utf-8")
    content = {
        "models": {"policy": "path:nowhere", "encoder": "path:nowhere"},
        "root": str(folder / "artifacts"),
        "prompts": {"taxonomy": "taxonomy.yaml", "sources": [{"name": "mine", "path": "p.jsonl"}]},
        "demonstrations": {
            "demonstrator": {"source": {"name": "written", "path": "d.jsonl"}},
            "helpful": {"name": "harmless", "path": "h.jsonl"},
            "refusals": {"name": "no", "path": "r.jsonl"},
            **settings,
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return Project.load(folder / "run.yaml")


def _look(project: Project, folder: Path, *, routed: bool = False) -> Preview:
    (folder / "look").mkdir()
    return preview(project, SilentReporter(), folder / "look", routed=routed)


def _reasons(found: Any) -> dict[str, int]:
    return {reason.reason: reason.rows for reason in found.quarantined}


def test_every_row_of_a_source_of_prompts_is_accounted_for(tmp_path: Path) -> None:
    """12 prompts of one category and 8 of the other; a repetition, an empty row, a benchmark prompt, one without label."""
    first = _prompts("insult", 12)
    rows = [
        *first,
        *_prompts("mental_health", 8),
        first[3],
        {"prompt": "", "category": "insult"},
        {"prompt": BENCHMARK_PROMPT, "category": "insult"},
        {"prompt": prompt("stray"), "category": ""},
    ]
    written = [*_written("insult", *range(5)), *_written("mental_health", *range(8))]
    found = _look(_project(tmp_path, rows, written), tmp_path)
    (file,) = found.prompts
    assert (file.name, file.read, file.skipped, file.kept, file.labelled, file.routed) == ("mine", 24, 0, 20, 20, 0)
    assert _reasons(file) == {"exact_duplicate": 1, "empty_prompt": 1, "benchmark_overlap": 1, "not_routed": 1}
    assert (file.duplicates, file.overlap) == (1, {"embedded": 1})
    assert (file.covered, file.uncovered, file.first_uncovered) == (13, 7, prompt(("insult", 5)))
    places = {reason.reason: reason.first[0].place for reason in file.quarantined}
    assert places == {
        "exact_duplicate": "row 21",
        "empty_prompt": "row 22",
        "benchmark_overlap": "row 23",
        "not_routed": "row 24",
    }
    assert [(c.name, c.prompts, c.demonstrated, c.missing) for c in found.categories] == [
        ("insult", 12, 5, 0),
        ("mental_health", 8, 8, 0),
    ]
    assert found.problems == ()
    assert len(found.notes) == 1 and "rows without a label are listed as not_routed" in found.notes[0]


def test_the_other_files_are_counted_with_their_reasons(tmp_path: Path) -> None:
    written = [
        *_written("insult", *range(6)),
        *_written("mental_health", *range(6)),
        {"prompt": prompt(("insult", 6)), "category": "insult", "demonstration": "Sorry, no."},
        {"prompt": prompt(("insult", 7)), "category": "insult", "demonstration": None},
    ]
    rows = [*_prompts("insult", 8), *_prompts("mental_health", 6)]
    found = _look(_project(tmp_path, rows, written), tmp_path)
    demonstrator, harmless, refusals = found.others
    assert (demonstrator.role, demonstrator.read, demonstrator.used) == ("demonstrations", 14, 12)
    assert _reasons(demonstrator) == {"bad_format": 1, "missing_value": 1}
    (example,) = next(reason for reason in demonstrator.quarantined if reason.reason == "bad_format").first
    assert example.text == prompt(("insult", 6)) and "demonstrations.format: answer" in example.detail
    assert (harmless.read, harmless.used, _reasons(harmless)) == (7, 6, {"refuses": 1})
    assert (refusals.read, refusals.used, _reasons(refusals)) == (2, 1, {"complies": 1})


def test_a_file_that_loses_most_of_its_rows_is_a_problem(tmp_path: Path) -> None:
    """As in the run: of the rows that repeat nothing, more than `checks.max_lost_fraction` are lost."""
    rows = [*_prompts("insult", 6), *_prompts("mental_health", 6), *[{"prompt": "", "category": "insult"}] * 13]
    written = [*_written("insult", *range(6)), *_written("mental_health", *range(6))]
    broken = [{**row, "demonstration": None} for row in _written("insult", *range(20, 33))]
    found = _look(_project(tmp_path, rows, [*broken, *written]), tmp_path)
    pool, dataset = found.problems
    assert pool.startswith("prompt_pool breaks rows_usable: 13 of 25 rows of mine are in quarantine: 13 empty_prompt")
    assert dataset.startswith("safety_dataset_insult breaks rows_usable: 52% of the rows of written are lost")


def test_rows_that_were_not_routed_are_not_lost(tmp_path: Path) -> None:
    """Twelve rows with a label, twenty without, one of which is empty."""
    stray = [{"prompt": prompt(("stray", key)), "category": ""} for key in range(19)]
    rows = [*_prompts("insult", 6), *_prompts("mental_health", 6), *stray, {"prompt": "", "category": ""}]
    written = [*_written("insult", *range(6)), *_written("mental_health", *range(6))]
    found = _look(_project(tmp_path, rows, written), tmp_path)
    assert _reasons(found.prompts[0]) == {"not_routed": 19, "empty_prompt": 1}
    assert found.problems == ()


def test_it_says_what_would_fill_the_quota(tmp_path: Path) -> None:
    """Quota 10. insult: 9 of its 12 prompts have a demonstration, one copy is missing and allowed. mental_health: 4 of 4,
    3 more in the file, so 3 rows are missing, more than a fifth."""
    written = [*_written("insult", *range(9)), *_written("mental_health", *range(4), "a", "b", "c")]
    rows = [*_prompts("insult", 12), *_prompts("mental_health", 4)]
    found = _look(_project(tmp_path, rows, written, quota=10), tmp_path)
    first, second = found.categories
    assert (first.prompts, first.demonstrated, first.filled_up, first.missing) == (12, 9, 0, 1)
    assert first.advice == "one more row: write demonstrations of its prompts that have none (3)"
    assert (second.prompts, second.demonstrated, second.filled_up, second.missing) == (4, 4, 3, 3)
    assert second.advice == "3 more rows: add prompts of mental_health with demonstrations"
    assert found.problems == (
        "safety_dataset_mental_health breaks class_balance: 10 rows of a quota of 10; 30% resampled, at most 20% allowed",
    )


def test_what_would_stop_a_run_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    rows = [*_prompts("insult", 8), *_prompts("mental_health", 2)]
    written = [*_written("insult", *range(8)), *_written("mental_health", 0, 1)]
    found = _look(_project(tmp_path, rows, written), tmp_path)
    (problem,) = found.problems
    assert problem.startswith("safety_dataset_mental_health: ") and "at least 3 are needed" in problem
    assert found.categories[1].advice.startswith("at least 3 groups of prompts")
    assert found.others[1].used == 6  # the harmless rows are looked at all the same


def test_demonstrations_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    found = _look(_project(tmp_path, _prompts("insult", 8), [{"question": "a", "reply": "b"}]), tmp_path)
    assert len(found.problems) == 1 and "has no column 'prompt'" in found.problems[0]
    assert found.prompts[0].kept == 8


def test_prompts_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    project = _project(tmp_path, _prompts("insult", 8), _written("insult", 1))
    (tmp_path / "p.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        _look(project, tmp_path)


def test_a_model_as_demonstrator_is_not_asked(tmp_path: Path) -> None:
    rows = [*_prompts("insult", 8), *_prompts("mental_health", 12)]
    demonstrator = {"kind": "model", "model": "path:nowhere"}
    found = _look(_project(tmp_path, rows, [], demonstrator=demonstrator, quota=10, format="answer"), tmp_path)
    assert [category.advice for category in found.categories] == [
        "8 demonstrations are to be written, and 2 new prompts with theirs",
        "10 demonstrations are to be written",
    ]
    assert found.prompts[0].covered is None
    assert [other.role for other in found.others] == ["harmless prompts", "refusals"]
    assert any("writes the demonstrations during the run" in note for note in found.notes)


def test_bare_answers_count_with_the_setting(tmp_path: Path) -> None:
    rows = [*_prompts("insult", 6), *_prompts("mental_health", 6)]
    written = [
        {**row, "demonstration": demonstration(row["prompt"]).rpartition("\n")[2]}
        for row in (*_written("insult", *range(6)), *_written("mental_health", *range(6)))
    ]
    found = _look(_project(tmp_path, rows, written, format="answer"), tmp_path)
    assert [category.demonstrated for category in found.categories] == [6, 6]
    assert found.problems == ()


def test_without_the_encoder_the_router_is_left_out_with_a_note(tmp_path: Path) -> None:
    rows = [*_prompts("insult", 8), *_prompts("mental_health", 8), {"prompt": prompt("stray"), "category": ""}]
    written = [*_written("insult", *range(8)), *_written("mental_health", *range(8))]
    found = _look(_project(tmp_path, rows, written), tmp_path, routed=True)
    assert _reasons(found.prompts[0]) == {"not_routed": 1}
    assert "nowhere is not a directory" in found.notes[0]


def test_the_router_chooses_as_in_a_run(tmp_path: Path, tiny_encoder: Path) -> None:
    rows = [*_prompts("insult", 8), *_prompts("mental_health", 8), {"prompt": prompt("stray"), "category": ""}]
    written = [*_written("insult", *range(8)), *_written("mental_health", *range(8))]
    project = _project(tmp_path, rows, written)
    config = dataclasses.replace(
        project.config,
        models=dataclasses.replace(
            project.config.models, encoder=f"path:{tiny_encoder}", cache=str(tmp_path / "cache")
        ),
        prompts=dataclasses.replace(project.config.prompts, router_confidence=0.0, relabel_confidence=1.0),
    )
    found = _look(Project(config), tmp_path, routed=True)
    (file,) = found.prompts
    assert (file.kept, file.labelled, file.routed, file.quarantined) == (17, 16, 1, ())
    assert found.notes == ()
