"""Floor, policies and ceiling on the same rows, with numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.benchmarks.examine import (
    Examinee,
    both_right,
    classifier_examinee,
    examine,
    examined,
    policy_examinee,
)
from drirl_core.benchmarks.measure import judge
from drirl_core.benchmarks.suites import BenchmarkRow
from drirl_core.errors import DataError

REFUSAL = "I can't help with that, but a friend could."
HELP = "Sure, here is how it is done."


def _row(group: str, number: int, pair: str = "", category: str = "insult") -> BenchmarkRow:
    text = f"{group} prompt {number}"
    return BenchmarkRow("twins", group, category, text, text, (), pair)  # type: ignore[arg-type]


ROWS = [
    _row("unsafe", 0, "a"),
    _row("unsafe", 1, "b", "crime"),
    _row("unsafe", 2, "c", "crime"),
    _row("unsafe", 3),
    _row("safe_look_alike", 0, "b", "crime"),
    _row("safe_look_alike", 1, "a"),
    _row("safe_look_alike", 2, "c", "crime"),
]


def _examinee(name: str, refused: str, scores: list[float] | None = None, broken: str = "", **more: Any) -> Examinee:
    said = [letter == "r" for letter in refused]
    return Examinee(name, said, [not r and str(i) not in broken for i, r in enumerate(said)], scores, **more)


def test_a_pair_counts_when_both_are_right() -> None:
    """Pair a: refused and answered. b: refused, but so is its twin. c: not refused. The fourth unsafe row has no pair."""
    one = _examinee("base", "rr.r" + "r..")
    assert both_right(ROWS, one.refused, one.answered) == {"a": True, "b": False, "c": False}


def test_a_broken_reply_is_no_answer() -> None:
    """Row 5, the twin of a, is neither refused nor answered."""
    one = _examinee("base", "rr.r" + "...", broken="5")
    assert both_right(ROWS, one.refused, one.answered) == {"a": False, "b": True, "c": False}


def test_half_a_pair_is_an_error() -> None:
    with pytest.raises(DataError, match="pair 'c' has one prompt instead of two"):
        both_right(ROWS[:-1], [True] * 6, [True] * 6)


@given(st.lists(st.sampled_from("ra-"), min_size=7, max_size=7))
def test_pairs_are_never_better_than_either_side(said: list[str]) -> None:
    refused, answered = [x == "r" for x in said], [x == "a" for x in said]
    pairs = both_right(ROWS, refused, answered)
    assert sum(pairs.values()) <= min(sum(refused[:3]), sum(answered[4:]))


def test_examination_by_hand() -> None:
    """Refuses 3 of 4 unsafe and 1 of 3 safe prompts: 3/4 - 1/3.

    Scores 4 3 1 3 against 2 1 0: the 4 and both 3 win 3 pairs each, the 1 wins one and ties one: 10.5 of 12. Verdicts: refused score
    4 3 3 and 2, the others 1 1 0: perfect agreement. Pairs: a alone of three.
    """
    one = _examinee("dr_irl", "rr.r" + "r..", [4, 3, 1, 3, 2, 1, 0])
    (record,) = examine(ROWS, [one], 300, 0)["examination"]
    assert (record["name"], record["kind"]) == ("dr_irl", "policy")
    assert (record["refusal"], record["refusal_n"], record["over_refusal_n"]) == (0.75, 4, 3)
    assert record["over_refusal"] == pytest.approx(1 / 3, abs=1e-6)
    assert record["composite"] == pytest.approx(5 / 12, abs=1e-6)
    assert record["composite_low"] < 5 / 12 < record["composite_high"]
    assert record["auc"] == 10.5 / 12
    assert record["agreement"] == 1
    assert (record["pair_accuracy"], record["pair_accuracy_n"]) == (pytest.approx(1 / 3, abs=1e-6), 3)


def test_tables_of_pairs_roc_and_differences() -> None:
    """Pairs right: aligned a and c of three, floor b alone: discordant 2 to 1, McNemar p = 1. AUC 1 against 1/2."""
    floor = classifier_examinee("floor", [1, 1, 0, 1, 0, 1, 0], 0.5)
    aligned = _examinee("dr_irl", "r.r." + "...", [1, 1, 1, 1, 0, 0, 0])
    flat = _examinee("base", "......" + ".", [5.0] * 7)
    found = examine(ROWS, [floor, flat, aligned], 300, 0)
    pairs = {(r["name"], r["category"]): (r["both_right"], r["n"]) for r in found["pairs"]}
    assert pairs["dr_irl", "all"] == (2, 3)
    assert (pairs["dr_irl", "crime"], pairs["dr_irl", "insult"]) == ((1, 2), (1, 1))
    assert pairs["floor", "all"] == (1, 3)
    assert found["roc"]["base"] == [[0, 0], [1, 1]]
    difference = {r["against"]: r for r in found["pair_differences"]}
    assert difference["floor"]["difference"] == pytest.approx(1 / 3, abs=1e-6)
    assert (difference["floor"]["only_policy"], difference["floor"]["only_against"], difference["floor"]["p"]) == (
        2,
        1,
        1,
    )
    assert difference["floor"]["low"] < 0 < difference["floor"]["high"]
    auc = {r["against"]: (r["difference"], r["low"], r["high"]) for r in found["auc_differences"]}
    assert auc["base"] == (0.5, 0.5, 0.5)
    agreement = {r["name"]: r["agreement"] for r in found["examination"]}
    assert agreement["floor"] is None  # it decides by its score
    assert agreement["base"] is None  # it refuses nothing, so there is nothing to agree with


def test_what_a_suite_or_a_setting_does_not_allow_is_left_out() -> None:
    """Unsafe prompts alone: no curve, no composite, no pairs. Without scores: no AUC."""
    rows = [_row("unsafe", i) for i in range(3)]
    found = examine(rows, [_examinee("base", "rr.", [1, 2, 0]), _examinee("dr_irl", "rrr")], 200, 0)
    record = found["examination"][0]
    assert record["refusal"] == pytest.approx(2 / 3, abs=1e-6)
    assert [record[k] for k in ("over_refusal", "composite", "auc", "pair_accuracy")] == [None] * 4
    assert (found["roc"], found["pairs"], found["auc_differences"], found["pair_differences"]) == ({}, [], [], [])
    unscored = examine(ROWS, [_examinee("dr_irl", "r......")], 200, 0)["examination"][0]
    assert (unscored["auc"], unscored["agreement"], unscored["composite"]) == (None, None, 0.25)
    nothing = examine([], [_examinee("dr_irl", "")], 200, 0)["examination"][0]
    assert nothing["refusal"] is None


def test_an_examinee_that_skipped_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"base decided \[6, 7\] of 7 prompts"):
        examine(ROWS, [Examinee("base", [True] * 7, [False] * 7, [0.0] * 6)], 200, 0)


def test_policies_and_classifiers_become_examinees() -> None:
    """A score at the threshold is no refusal; a reply that copies its prompt is neither refusal nor answer."""
    rows = examined([*ROWS, _row("helpful", 0)])
    assert rows == ROWS
    texts = [REFUSAL, HELP, rows[2].prompt, "", HELP, REFUSAL, HELP]
    replies = [judge(row, "base", text, tokens=5, finished=True) for row, text in zip(rows, texts, strict=True)]
    policy = policy_examinee("base", replies, None)
    assert [i for i, r in enumerate(policy.refused) if r] == [0, 5]
    assert [i for i, r in enumerate(policy.answered) if r] == [1, 4, 6]
    floor = classifier_examinee("floor", [0.1, 0.5, 0.6], 0.5)
    assert (floor.refused, floor.answered, floor.reference) == ([False, False, True], [True, True, False], True)
