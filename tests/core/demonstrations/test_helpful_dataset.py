"""The harmless data set: answers that help, look-alikes, refusals that are wrong."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import dataset_inputs
import pytest
from dataset_inputs import DatasetInputs, prompt, words

from drirl_core import taxonomy
from drirl_core.demonstrations.stage import build_dataset
from drirl_core.errors import DataError
from drirl_core.store.tables import read_table
from drirl_core.testing import RecordingReporter

REFUSALS = [{"refusal": "I'm sorry, but I can't help with that."}, {"refusal": "I cannot assist with this request."}]


def helpful(*keys: object, kind: str = "general") -> list[dict[str, Any]]:
    return [{"prompt": prompt(key), "kind": kind, "answer": f"It is {words(('helpful', key), 9)}."} for key in keys]


def build(
    stage_inputs: DatasetInputs, run: str = "run", **settings: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], dict[str, Any]]:
    context = stage_inputs.context(taxonomy.HELPFUL, run, **settings)
    shown = build_dataset(context)
    refusals = [row["refusal"] for row in read_table(context.out / "refusals.parquet")]
    return read_table(context.out / "rows.parquet"), read_table(context.out / "quarantine.parquet"), refusals, shown


def test_all_rows_are_kept_and_both_kinds_are_in_every_split(tmp_path: Path) -> None:
    """Twenty general rows and ten look-alikes, a tenth each held out: 2 and 1 in validation, 2 and 1 in test."""
    stage_inputs = DatasetInputs(
        tmp_path, helpful=helpful(*range(20)) + helpful(*range(20, 30), kind="look_alike"), refusals=REFUSALS
    )
    rows, quarantine, refusals, shown = build(stage_inputs)
    assert len(rows) == 30
    assert quarantine == []
    assert Counter((row["kind"], row["split"]) for row in rows) == {
        ("general", "train"): 16, ("general", "validation"): 2, ("general", "test"): 2,
        ("look_alike", "train"): 8, ("look_alike", "validation"): 1, ("look_alike", "test"): 1,
    }  # fmt: skip
    assert {(row["category"], row["source"], row["licence"], row["origin"]) for row in rows} == {
        ("helpful", "helpful", "CC-BY-4.0", "pool")
    }
    assert all(row["answer"] == row["demonstration"] for row in rows)
    assert refusals == ["I cannot assist with this request.", "I'm sorry, but I can't help with that."]
    assert shown["general"] == 20
    assert shown["refusals"] == 2


def test_bad_rows_are_quarantined_with_the_reason(tmp_path: Path) -> None:
    bad = [
        {"prompt": prompt("a"), "kind": "general", "answer": "I'm sorry, but I can't help with that."},
        {"prompt": prompt("b"), "kind": "general", "answer": " "},
        {"prompt": prompt("c"), "kind": "special", "answer": "It is fine."},
        {"prompt": prompt(0).upper(), "kind": "general", "answer": "It is a copy."},
        {"prompt": prompt("unsafe"), "kind": "general", "answer": "It is fine."},
        {"prompt": dataset_inputs.BENCHMARK_PROMPT, "kind": "look_alike", "answer": "It is fine."},
        {"kind": "general", "answer": "It is fine."},
        {"prompt": prompt("d"), "kind": "general", "answer": "It is\n####\nfine."},
    ]
    refusals = [*REFUSALS, REFUSALS[0], {"refusal": "Boil it for six minutes."}, {"refusal": ""}]
    stage_inputs = DatasetInputs(
        tmp_path, pool=[dataset_inputs.pool_row(prompt("unsafe"))], helpful=helpful(*range(5)) + bad, refusals=refusals
    )
    rows, quarantine, kept, _ = build(stage_inputs)
    assert len(rows) == 5
    assert len(kept) == 2
    assert Counter(row["reason"] for row in quarantine) == {
        "refuses": 1, "missing_value": 3, "unknown_category": 1, "duplicate_prompt": 1, "label_conflict": 1,
        "benchmark_overlap": 1, "bad_format": 1, "copied_answer": 1, "complies": 1,
    }  # fmt: skip
    assert {row["category"] for row in quarantine} == {"helpful"}


def test_what_the_files_lose_is_told_and_kept_for_the_check(tmp_path: Path) -> None:
    """Of 24 harmless rows 4 refuse; of 3 refusals one repeats another, which is no loss."""
    bad = [{**row, "answer": "I'm sorry, but I can't help with that."} for row in helpful("a", "b", "c", "d")]
    stage_inputs = DatasetInputs(tmp_path, helpful=bad + helpful(*range(20)), refusals=[*REFUSALS, REFUSALS[0]])
    context = dataclasses.replace(stage_inputs.context(taxonomy.HELPFUL), reporter=RecordingReporter())
    build_dataset(context)
    losses = json.loads((context.out / "losses.json").read_text(encoding="utf-8"))
    assert losses["helpful"]["lost_share"] == 0.17
    assert losses["helpful"]["first"].startswith("helpful.jsonl, row 1: the answer to a harmless prompt refuses")
    assert losses.keys() == {"helpful"}
    told = [line for line in context.reporter.lines if line.startswith("warning: ")]
    assert [line.partition("; first")[0] for line in told] == [
        "warning: 4 of 24 rows of helpful are in quarantine: 4 refuses"
    ]
    clean = DatasetInputs(tmp_path, helpful=helpful(*range(20)), refusals=REFUSALS).context(taxonomy.HELPFUL, "clean")
    build_dataset(clean)
    assert not (clean.out / "losses.json").exists()


def test_a_look_alike_may_resemble_an_unsafe_prompt(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(
        tmp_path,
        pool=[dataset_inputs.pool_row(prompt(0).replace("?", " now?"))],
        helpful=helpful(*range(4), kind="look_alike"),
        refusals=REFUSALS,
    )
    rows, quarantine, _, _ = build(stage_inputs)
    assert len(rows) == 4
    assert quarantine == []


def test_near_duplicates_stay_in_one_split(tmp_path: Path) -> None:
    rows = helpful(*range(12))
    twins = [{**row, "prompt": row["prompt"].replace("?", " now?"), "kind": "look_alike"} for row in rows[:6]]
    for seed in range(3):
        made = build(DatasetInputs(tmp_path, helpful=rows + twins, refusals=REFUSALS), f"run {seed}", seed=seed)[0]
        assert len({row["group_id"] for row in made}) == 12
        sides: dict[str, set[str]] = {}
        for row in made:
            sides.setdefault(row["group_id"], set()).add(row["split"])
        assert all(len(side) == 1 for side in sides.values())
        assert {row["split"] for row in made} == {"train", "validation", "test"}


def test_a_kind_of_few_rows_is_trained_on(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(
        tmp_path, helpful=helpful(*range(5)) + helpful("x", "y", kind="look_alike"), refusals=REFUSALS
    )
    assert {row["split"] for row in build(stage_inputs)[0] if row["kind"] == "look_alike"} == {"train"}


def test_two_small_kinds_are_split_together(tmp_path: Path) -> None:
    stage_inputs = DatasetInputs(
        tmp_path, helpful=helpful(0, 1) + helpful("x", "y", kind="look_alike"), refusals=REFUSALS
    )
    assert Counter(row["split"] for row in build(stage_inputs)[0]) == {"train": 2, "validation": 1, "test": 1}


def test_too_few_rows_and_no_refusals_are_errors(tmp_path: Path) -> None:
    refused = {"prompt": prompt("a"), "kind": "general", "answer": "I can't help with that."}
    with pytest.raises(DataError, match=r"2 usable harmless rows.*refuses.*Add harmless prompts"):
        build(DatasetInputs(tmp_path, helpful=[*helpful(0, 1), refused], refusals=REFUSALS), "few")
    with pytest.raises(DataError, match="no usable refusal"):
        build(DatasetInputs(tmp_path, helpful=helpful(*range(5)), refusals=[{"refusal": "Boil it."}]), "none")


def test_order_does_not_matter(tmp_path: Path) -> None:
    rows = helpful(*range(12)) + helpful(*range(20, 30), kind="look_alike")
    made = [
        build(DatasetInputs(tmp_path, helpful=given, refusals=REFUSALS), name)[0]
        for name, given in (("one", rows), ("two", rows[::-1]))
    ]
    assert made[0] == made[1]
