"""What a judge's measured error may mean for a rate: figures by hand, and how results say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl_core.benchmarks.judge_words import judge_line, shift_note, shifts
from drirl_core.benchmarks.judges.error import judge_error
from drirl_core.benchmarks.judges.labelled import LabelledReply, LabelledSet
from drirl_core.benchmarks.judges.trust import MeasuredError, of_measurement, of_record
from drirl_core.benchmarks.judges.verdicts import RulesJudge, Verdict
from drirl_core.benchmarks.render import shift_table
from drirl_core.stats import Estimate

MEASUREMENTS = Path(__file__).parents[3] / "benchmarks" / "results" / "judge_error.json"
LLM = {"judge": "llm", "model": "grader", "rubric": "xstest", "accuracy": None}


def known(false: int, others: int, missed: int, refusals: int) -> MeasuredError:
    n = others + refusals
    wrong, off = (Estimate(x / n, 0.0, 1.0) for x in (false + missed, false - missed))
    return MeasuredError("toy", n, wrong, 0, n, refusals, false, missed, off)


def labelled(*refused: bool, name: str = "own/replies.jsonl") -> LabelledSet:
    return LabelledSet(name, tuple(LabelledReply("p", "r", one) for one in refused))


def measured(truth: str, said: str, name: str = "own/replies.jsonl") -> dict[str, Any]:
    """Compare verdicts with labels; R is a refusal, each other letter is none."""
    verdicts = [Verdict("refusal" if letter == "R" else "compliance") for letter in said]
    return judge_error(LLM, verdicts, labelled(*(letter == "R" for letter in truth), name=name))


def results(judge: Any, *summary: Any, **more: Any) -> dict[str, Any]:
    sizes = {"refusal_n": 140, "over_refusal_n": 140}
    rows = [dict(zip(("policy", "refusal", "over_refusal"), row, strict=True)) | sizes for row in summary]
    return {"judge": judge, "summary": rows, **more}


def test_a_rate_without_the_errors_by_hand() -> None:
    """f = .1, m = .2, v = .5: (.5 - .1) / .7 = .571, 7.1 points more; at f the rate is 0, at 1 - m it is 1."""
    error = known(10, 100, 20, 100)
    assert (error.false_share, error.missed_share, error.growth) == (0.1, 0.2, pytest.approx(1 / 0.7))
    shift = error.shift(0.5, 100)
    assert shift is not None
    assert shift.value == pytest.approx(0.4 / 0.7 - 0.5)
    assert shift.low < shift.value < shift.high
    for rate, shifted in ((0.1, -0.1), (0.05, -0.05), (0.8, 0.2), (0.9, 0.1)):
        found = error.shift(rate, 100)
        assert found is not None
        assert found.value == pytest.approx(shifted)


def test_more_labelled_replies_make_the_interval_shorter_and_no_error_leaves_one() -> None:
    counts = ((2, 20, 4, 20), (2000, 20_000, 4000, 20_000), (0, 20, 0, 20))
    few, many, perfect = (known(*four).shift(0.5, 10_000) for four in counts)
    fewer = known(*counts[1]).shift(0.5, 50)  # by chance more or fewer of 50 verdicts are wrong
    assert few is not None
    assert many is not None
    assert fewer is not None
    assert perfect is not None
    assert few.high - few.low > 5 * (many.high - many.low)
    assert fewer.high - fewer.low > 5 * (many.high - many.low)
    assert perfect.value == 0
    assert perfect.low < 0 < perfect.high


@pytest.mark.parametrize("counts", [(50, 100, 50, 100), (9, 20, 10, 20), (1, 10, 0, 0), (0, 0, 1, 10)])
def test_a_judge_that_is_no_better_than_chance_or_half_known_says_nothing(counts: tuple[int, int, int, int]) -> None:
    assert known(*counts).shift(0.5, 100) is None


def test_counts_follow_from_the_rates_that_results_hold() -> None:
    """The record of the rules has accuracy, precision and recall; the figures measured beside it have the counts."""
    (own,) = [
        found
        for found in json.loads(MEASUREMENTS.read_text())["data"]
        if found["judge"] == "rules" and found["data"].startswith("xstest")
    ]
    record, counted = of_record(RulesJudge.record), of_measurement(own)
    assert record is not None
    assert (record.n, record.refusals, record.false, record.missed) == (1135, 576, 44, 54)
    assert (counted.n, counted.refusals, counted.false, counted.missed) == (1135, 576, 44, 54)
    assert record.off is not None
    assert counted.off is not None
    assert (record.off.value, record.off.low, record.off.high) == pytest.approx(
        (counted.off.value, counted.off.low, counted.off.high), abs=0.001
    )


def test_a_record_that_does_not_say_everything() -> None:
    unknown = of_record({"judge": "x", "accuracy": None})
    perfect, blind = (
        of_record({"data": "d", "n": 10, "accuracy": a, "low": 0.0, "high": 1.0, "precision": p, "recall": p})
        for a, p in ((1.0, 1.0), (0.4, 0.0))
    )
    assert unknown is None
    assert perfect is not None
    assert (perfect.off, perfect.shift(0.5, 9)) == (Estimate(0.0, 0.0, 0.0), None)
    assert blind is not None
    assert (blind.off, blind.shift(0.5, 9)) == (None, None)


def test_weighted_rows_count_as_the_replies_that_they_stand_for() -> None:
    """Weights 6, 1, 1 and 2, wrong on one of 1 that does not refuse and on one of 2 that does: .1 and .2 of 10."""
    rows = [(True, 6.0, "R"), (False, 1.0, "R"), (False, 1.0, "N"), (True, 2.0, "N")]
    replies = LabelledSet("own", tuple(LabelledReply("p", "r", truth, weight=w) for truth, w, _ in rows))
    said = [Verdict("refusal" if letter == "R" else "compliance") for *_, letter in rows]
    found = of_measurement(judge_error(LLM, said, replies))
    assert (found.stands_for, found.replies) == (10, 2)  # 10^2 / (36 + 1 + 1 + 4) = 2.4 effective rows
    assert found.wrong.value == pytest.approx(0.3)
    assert (found.false_share, found.missed_share) == (pytest.approx(0.1 / 0.2), pytest.approx(0.2 / 0.8))


def test_results_of_the_rules_say_the_error_and_what_it_may_mean() -> None:
    """v = .829: (.829 - .0787) / (1 - .0787 - .0938) = .907, 7.8 points; .264: .224, 4.0 points less."""
    found = results(RulesJudge.record, ("sft", 0.829, None), ("dr_irl", 0.829, 0.264))
    line = judge_line(found)
    assert line.startswith("Judge `rules`: wrong on 8.6 % [7.1, 10.4] of 1135 human-labelled replies (XSTest, 227 ")
    assert "7.9% of what does not refuse is called a refusal, 9.4% of the refusals are missed" in line
    assert "its refusal rate there is -0.9 [-2.6, +0.8] points off" in line
    shown = shifts(found)
    assert {policy: list(own) for policy, own in shown.items()} == {
        "sft": ["refusal"], "dr_irl": ["refusal", "over_refusal"],
    }  # fmt: skip
    assert shown["dr_irl"]["refusal"].value == pytest.approx(0.078, abs=0.001)
    assert shown["dr_irl"]["over_refusal"].value == pytest.approx(-0.040, abs=0.001)
    table = shift_table(found)
    assert "| SFT start" in table
    assert "+7.8 [+" in table
    assert "-4.0 [-" in table
    low = shifts(results(RulesJudge.record, ("base", 0.05, 0.0)))["base"]
    assert (low["refusal"].value, low["refusal"].low) == (-0.05, -0.05), "no rate is below 0"
    assert low["refusal"].high > -0.05, "by chance fewer verdicts may be wrong than f says"
    assert low["over_refusal"].value == low["over_refusal"].low == 0
    assert "would keep its sign and be 1.21 times as large" in shift_note(found)  # 1 / (1 - .0787 - .0938)


def test_without_a_record_the_command_is_given_and_no_rate_is_corrected() -> None:
    """The artifact of a benchmark does not know the record; whoever shows it does, and then says that there is none."""
    silent, asked = (results(LLM, ("dr_irl", 0.8, 0.2), **more) for more in ({}, {"judge_errors": []}))
    assert "Judge `llm` (grader, rubric xstest): its error on labelled replies was not measured; `drirl judge" in (
        judge_line(asked)
    )
    assert "no part of this result; `drirl judge LABELLED FILE --judge llm` measures it" in judge_line(silent)
    for found in (silent, asked):
        assert (shifts(found), shift_table(found), shift_note(found)) == ({}, "", "")


def test_a_recorded_judge_by_hand() -> None:
    """Ten refusals and ten others, one of each wrong: f = m = .1, v = .5 stays, v = .8 is .875; a model labelled a set."""
    own = measured("R" * 10 + "N" * 10, "N" + "R" * 9 + "R" + "N" * 9)
    shipped = measured("RN", "RN", name="hand_read")
    found = results(
        {**LLM, "safety_policy": "1234"}, ("base", 0.5, 0.5), ("dr_irl", 0.8, None), judge_errors=[own, shipped]
    )
    line = judge_line(found)
    assert "told the safety policy 1234): wrong on 10.0 % [" in line
    assert "of 20 labelled replies (own/replies.jsonl)" in line
    assert "of 2 labelled replies (hand_read, labels of an AI language model, not of people)" in line
    assert line.endswith("It was measured without the safety policy.")
    assert {policy: round(own["refusal"].value, 4) for policy, own in shifts(found).items()} == {
        "base": 0, "dr_irl": 0.075,
    }  # fmt: skip


def test_a_judge_that_says_nothing_is_told_so() -> None:
    worse = measured("RRNN", "NNRR")
    found = results(LLM, ("base", 0.5, 0.5), judge_errors=[worse])
    assert shift_note(found) == "These figures do not say what that means for the rates."
    vague = measured("RRN", "RNN")
    assert "known too badly" in shift_note(results(LLM, ("base", 0.5, 0.5), judge_errors=[vague]))
