"""Labelled sets and the error of judges on them: layouts, figures by hand, and the shipped set."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drirl_core.benchmarks.judges.error import error_lines, judge_error, measure
from drirl_core.benchmarks.judges.labelled import (
    HAND_READ,
    HAND_READ_FILE,
    REPLY_KINDS,
    LabelledReply,
    LabelledSet,
    is_held_out,
    read_labelled_set,
)
from drirl_core.benchmarks.judges.train import read_labelled
from drirl_core.benchmarks.judges.verdicts import RulesJudge, Verdict
from drirl_core.benchmarks.suites import load_suite
from drirl_core.config import SuiteConfig
from drirl_core.errors import DataError
from drirl_core.stats import wilson

RECORD = {"judge": "toy", "accuracy": None}
PROPOSITIONS = dict.fromkeys(
    (
        "encourage_professional_help", "gentle_encouragement_for_help", "provides_resources", "inability_to_comply",
        "illogical_continuation_of_prompt", "disallowed_content", "fully_complies", "partially_complies",
    ),
    False,
)  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    place = folder / "own.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(place)


def toy(*rows: tuple[bool, str, float], certain: bool = True) -> LabelledSet:
    return LabelledSet("toy", tuple(LabelledReply("p", "r", refused, kind, certain, w) for refused, kind, w in rows))


def test_figures_by_hand() -> None:
    """Labels R R N N N, verdicts R - R N U: 3 of 5 right, 1 of 3 falsely refused, 1 of 2 missed, rates 2/5 and 2/5."""
    labelled = toy(
        (True, "hard_refusal", 1), (True, "safe_completion", 1), (False, "compliance", 1), (False, "compliance", 1),
        (False, "unusable", 1),
    )  # fmt: skip
    verdicts = [Verdict(label) for label in ("refusal", "compliance", "refusal", "compliance", "degenerate")]  # type: ignore[arg-type]
    found = judge_error(RECORD, verdicts, labelled)
    assert (found["judge"], found["n"], found["invalid"]) == ("toy", 5, 0)
    assert found["accuracy"] == {"value": 0.6, **_ends(3, 5), "n": 5}
    assert found["false_refusals"] == {"value": 0.3333, **_ends(1, 3), "n": 3}
    assert found["missed_refusals"] == {"value": 0.5, **_ends(1, 2), "n": 2}
    assert (found["refusal_rate"]["labels"], found["refusal_rate"]["verdicts"]) == (0.4, 0.4)
    assert found["refusal_rate"]["error"]["value"] == 0
    kinds = {row["kind"]: (row["n"], row["refusal"], row["compliance"], row["unusable"]) for row in found["kinds"]}
    assert kinds == {
        "hard_refusal": (1, 1, 0, 0), "safe_completion": (1, 0, 1, 0), "compliance": (2, 1, 1, 0),
        "unusable": (1, 0, 0, 1),
    }  # fmt: skip
    assert "population" not in found
    assert found["sources"] == []


def _ends(hits: int, n: int) -> dict[str, float]:
    interval = wilson(hits, n)
    return {"low": round(interval.low, 4), "high": round(interval.high, 4)}


def test_weights_by_hand() -> None:
    """Right on weights 6 and 1 of 6 + 1 + 1, wrong on 1: 7/8; refused 6/8 by the labels, 7/8 by the judge."""
    labelled = toy((True, "", 6), (False, "", 1), (False, "", 1))
    found = judge_error(RECORD, [Verdict("refusal"), Verdict("refusal"), Verdict("compliance")], labelled)
    over = found["population"]
    assert (over["replies"], over["accuracy"]["value"], over["labels"], over["verdicts"]) == (8, 0.875, 0.75, 0.875)
    assert over["accuracy"]["n"] == 64 // 38, "(6 + 1 + 1)^2 / (36 + 1 + 1)"
    assert over["error"]["value"] == 0.125
    assert over["error"]["low"] == 0
    assert over["error"]["high"] > 0.125


def test_invalid_verdicts_are_counted_and_left_out() -> None:
    labelled = toy((True, "", 1), (True, "", 1))
    found = judge_error(RECORD, [Verdict("refusal"), Verdict("invalid")], labelled)
    assert (found["n"], found["invalid"], found["accuracy"]["value"]) == (1, 1, 1)
    assert found["false_refusals"] is None
    assert "1 without a usable verdict" in error_lines(found)[0]
    with pytest.raises(DataError, match="no usable verdict on toy"):
        judge_error(RECORD, [Verdict("invalid")] * 2, labelled)
    with pytest.raises(DataError, match="1 verdicts on 2 labelled replies"):
        judge_error(RECORD, [Verdict("refusal")], labelled)


def test_who_replied_is_measured_apart() -> None:
    rows = [LabelledReply("p", "r", False, source=name) for name in ("base", "base", "sft")]
    verdicts = [Verdict("refusal"), Verdict("compliance"), Verdict("compliance")]
    found = judge_error(RECORD, verdicts, LabelledSet("toy", tuple(rows)))
    assert [(one["source"], one["n"], one["accuracy"]["value"]) for one in found["sources"]] == [
        ("base", 2, 0.5),
        ("sft", 1, 1.0),
    ]


def test_doubtful_labels_are_told_apart() -> None:
    rows = (LabelledReply("p", "r", True), LabelledReply("p", "r", True, certain=False))
    found = judge_error(RECORD, [Verdict("refusal"), Verdict("compliance")], LabelledSet("toy", rows))
    assert (found["accuracy"]["value"], found["certain"]["value"], found["certain"]["n"]) == (0.5, 1, 1)


@pytest.mark.parametrize(
    ("row", "refused", "kind"),
    [
        ({"prompt": "p", "reply": "r", "refused": True}, True, ""),
        ({"prompt": "p", "reply": "r", "refused": "false", "kind": "unusable"}, False, "unusable"),
        ({"prompt": "p", "reply": "r", "label": "refusal"}, True, ""),
        ({"prompt": "p", "completion": "r", "final_label": "3_partial_refusal"}, True, "partial_refusal"),
        ({"prompt": "p", "completion": "r", "final_label": "1_full_compliance"}, False, "compliance"),
        (
            {
                "prompt": [{"role": "user", "content": "first"}, {"role": "user", "content": "p"}],
                "completion": [{"role": "assistant", "content": "r"}],
                "propositions": {**PROPOSITIONS, "inability_to_comply": True},
            },
            True,
            "hard_refusal",
        ),
    ],
)
def test_layouts(tmp_path: Path, row: dict[str, Any], refused: bool, kind: str) -> None:
    (found,) = read_labelled_set(written(tmp_path, [row])).rows
    assert (found.prompt, found.reply, found.refused, found.kind) == ("p", "r", refused, kind)


def test_rows_of_no_one_kind_are_counted(tmp_path: Path) -> None:
    chat = {"prompt": [{"content": "p"}], "completion": [{"content": "r"}]}
    rows = [
        {**chat, "propositions": {**PROPOSITIONS, "fully_complies": True}},
        {**chat, "propositions": {**PROPOSITIONS, "illogical_continuation_of_prompt": True}},
    ]
    found = read_labelled_set(written(tmp_path, rows))
    assert (len(found.rows), found.left_out) == (1, 1)
    with pytest.raises(DataError, match="no labelled reply"):
        read_labelled_set(written(tmp_path, rows[1:]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "reply": "r"}, "line 1: the columns are prompt, reply; a file of labelled replies has prompt"),
        ({"prompt": "p", "reply": "r", "refused": "yes"}, "refused is 'yes'; one of true, 1, false, 0"),
        ({"prompt": "p", "reply": "r", "label": "REFUSAL"}, "label is 'REFUSAL'; one of refusal, compliance"),
        ({"prompt": "p", "reply": 3, "refused": True}, "reply is 3; a text is needed"),
        ({"prompt": "p", "reply": "r", "refused": True, "kind": "rude"}, "the kind 'rude' is none of hard_refusal"),
        ({"prompt": "p", "reply": "r", "refused": True, "weight": 0}, "weight is 0; a number above 0"),
        ({"prompt": "p", "completion": "r", "final_label": "4"}, "final_label is '4'; one of 1_full_compliance"),
        ({"prompt": "p", "completion": "r", "propositions": {}}, "not a row of rbr_gold"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled_set(written(tmp_path, [row]))


def test_held_out_prompts_are_those_with_an_odd_hash(tmp_path: Path) -> None:
    prompts = [f"prompt {i}" for i in range(20)]
    odd = [p for p in prompts if int(hashlib.sha256(p.encode()).hexdigest(), 16) % 2]
    place = written(tmp_path, [{"prompt": p, "reply": "r", "refused": True} for p in prompts])
    assert 0 < len(odd) < 20
    assert (
        [row.prompt for row in read_labelled_set(place, held_out=True).rows]
        == odd
        == list(filter(is_held_out, prompts))
    )


def _shipped() -> list[dict[str, Any]]:
    return [json.loads(line) for line in HAND_READ_FILE.read_text(encoding="utf-8").splitlines()]


def test_the_shipped_set_is_as_its_card_says() -> None:
    rows = _shipped()
    assert len(rows) == 204
    assert Counter(row["kind"] for row in rows) == {
        "compliance": 99, "hard_refusal": 72, "unusable": 29, "safe_completion": 3, "partial_refusal": 1,
    }  # fmt: skip
    assert sum(row["refused"] for row in rows) == 76
    assert sum(not row["certain"] for row in rows) == 32
    assert len({row["id"] for row in rows}) == len({(row["prompt"], row["reply"]) for row in rows}) == 204
    refusing = {"hard_refusal", "safe_completion", "partial_refusal"}
    assert all(row["kind"] in REPLY_KINDS and row["refused"] == (row["kind"] in refusing) for row in rows)
    card = (HAND_READ_FILE.parent / "README.md").read_text(encoding="utf-8")
    for told in ("204 replies", "72", "29", "not a human", "CC-BY-4.0"):
        assert told in card


def test_its_prompts_are_of_the_held_out_suites_alone() -> None:
    known = {row.prompt for name in ("embedded", "twins") for row in load_suite(SuiteConfig(name))}
    assert {row["prompt"] for row in _shipped()} <= known


def test_the_error_of_the_rules_on_it_is_the_recorded_one() -> None:
    """A change of the rules changes these figures: measure again, and never word the rules after this set."""
    found, verdicts = measure(RulesJudge(), read_labelled_set(HAND_READ))
    recorded = json.loads((Path(__file__).parents[3] / "benchmarks/results/judge_error.json").read_text())
    (own,) = [e for e in recorded["data"] if e["judge"] == "rules" and e["data"] == HAND_READ]
    assert {name: own[name] for name in ("accuracy", "false_refusals", "missed_refusals", "refusal_rate")} == {
        name: found[name] for name in ("accuracy", "false_refusals", "missed_refusals", "refusal_rate")
    }
    assert len(verdicts) == 204


def test_no_judge_is_fitted_on_it() -> None:
    columns = {"prompt": "prompt", "reply": "reply", "label": "refused", "model": "policy"}
    with pytest.raises(DataError, match="for measuring judges alone"):
        read_labelled([HAND_READ_FILE], columns, {"True": True, "False": False})
