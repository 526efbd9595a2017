"""What a judge's errors mean for differences of policies: figures by hand, properties, and how pages say it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.benchmarks.judge_differences import (
    by_judge,
    common_error,
    judge_lines,
    judge_of,
    judge_row,
    without_errors,
    written,
)
from drirl_core.benchmarks.judge_words import judge_line
from drirl_core.benchmarks.judges.error import judge_error
from drirl_core.benchmarks.judges.labelled import LabelledReply, LabelledSet
from drirl_core.benchmarks.judges.trust import MeasuredError
from drirl_core.benchmarks.judges.verdicts import RulesJudge, Verdict
from drirl_core.stats import Estimate, pooled_composite

LLM = {"judge": "llm", "model": "grader", "rubric": "xstest", "accuracy": None}
RULES = {"judge": dict(RulesJudge.record)}
RATES = {"base": {"refusal": 0.5, "over_refusal": 0.1}, "dr_irl": {"refusal": 0.8, "over_refusal": 0.2}}
RESAMPLES, SEED = 10_000, 0


def known(false: int, others: int, missed: int, refusals: int) -> MeasuredError:
    n = others + refusals
    wrong = Estimate((false + missed) / n, 0.0, 1.0)
    return MeasuredError("toy", n, wrong, 0, n, refusals, false, missed, None)


def measured(truth: str, said: str, name: str = "own/replies.jsonl", weights: tuple[float, ...] = ()) -> dict[str, Any]:
    """Compare verdicts with labels; R is a refusal, each other letter is none."""
    own = zip(truth, weights or [1.0] * len(truth), strict=True)
    labelled = LabelledSet(name, tuple(LabelledReply("p", "r", letter == "R", weight=weight) for letter, weight in own))
    return judge_error(LLM, [Verdict("refusal" if letter == "R" else "compliance") for letter in said], labelled)


def lines(*judges: dict[str, Any], rates: Any = None) -> list[str]:
    return judge_lines(by_judge(zip(RATES, judges, strict=True)), rates or RATES)


def test_a_difference_without_the_errors_by_hand() -> None:
    """Sensitivity .8, specificity .9: divided by .7. Unsafe 6 of 8 up and 1 down (5/8), safe 1 of 4 up (1/4): 3/8."""
    error = known(10, 100, 20, 100)
    gains, costs = [1.0] * 6 + [-1.0, 0.0], [1.0, 0.0, 0.0, 0.0]
    raw = pooled_composite(gains, costs, RESAMPLES, SEED)
    found = error.scaled(gains, costs, RESAMPLES, SEED)
    assert (error.sensitivity, error.specificity) == (
        Estimate(pytest.approx(0.8), pytest.approx(0.7112, abs=1e-4), pytest.approx(0.8666, abs=1e-4)),
        Estimate(pytest.approx(0.9), pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4)),
    )
    assert raw.value == 0.375
    assert found is not None
    assert found.value == pytest.approx(0.375 / 0.7)
    assert found.low < raw.low < 0 < raw.high < found.high
    alone = error.scaled(gains, (), RESAMPLES, SEED)
    assert alone is not None
    assert alone.value == pytest.approx(0.625 / 0.7)


def test_the_interval_holds_the_choice_of_prompts_and_how_well_the_errors_are_known() -> None:
    """The more labelled replies, the nearer it comes to the interval over prompts divided by .7, and never within."""
    gains = [1.0] * 30 + [0.0] * 70
    raw = pooled_composite(gains, (), RESAMPLES, SEED)
    few, many = (known(*counts).scaled(gains, (), RESAMPLES, SEED) for counts in ((2, 20, 4, 20), (10**6, 10**7) * 2))
    assert few is not None
    assert many is not None
    assert (many.low, many.high) == pytest.approx((raw.low / 0.8, raw.high / 0.8), rel=1e-3)
    assert few.high - few.low > 1.2 * (many.high - many.low)
    certain = known(2, 20, 4, 20).scaled([1.0] * 5 + [0.0] * 0, (), RESAMPLES, SEED)
    assert certain == Estimate(1.0, 1.0, 1.0), "no difference of two rates is above 100 points"


@given(
    gains=st.lists(st.sampled_from((-1.0, -0.5, 0.0, 0.5, 1.0)), min_size=1, max_size=30),
    costs=st.lists(st.sampled_from((-1.0, 0.0, 1.0)), max_size=30),
    false=st.integers(0, 200),
    missed=st.integers(0, 200),
)
def test_the_sign_stays_and_a_perfect_judge_changes_nothing(
    gains: list[float], costs: list[float], false: int, missed: int
) -> None:
    """Whatever the errors of a judge that is better than chance."""
    raw = pooled_composite(gains, costs, 200, SEED).value
    perfect = known(0, 200, 0, 200).scaled(gains, costs, 200, SEED)
    assert perfect is not None
    assert perfect.value == pytest.approx(raw, abs=1e-12)
    found = known(false, 200, missed, 200).scaled(gains, costs, 200, SEED)
    if false + missed >= 200:  # sensitivity + specificity <= 1
        assert found is None
    elif found is not None:  # else it is too near to chance
        assert np.sign(found.value) == np.sign(raw)
        assert abs(found.value) >= abs(raw) - 1e-12
        assert found.low <= found.value <= found.high


def test_draws_of_the_factor_are_above_zero_and_none_where_the_judge_may_be_no_better_than_chance() -> None:
    near = known(40, 100, 30, 100).growths(4000)  # .3 left, some 4.5 standard deviations
    assert near is not None
    assert near.shape == (4000,)
    assert near.min() > 0
    assert np.median(near) == pytest.approx(1 / 0.3, rel=0.05)
    assert known(48, 100, 48, 100).growths(4000) is None
    assert known(50, 100, 50, 100).growths(4000) is None


def test_results_of_the_rules_say_it_once_and_shortly() -> None:
    """522 of 576 and 515 of 559: .9063 + .9213 - 1 = .8275, differences 1.208 times as large."""
    first, second = lines(RULES, RULES)
    assert first == (
        "Judge `rules`: sensitivity 90.6 % [88.0, 92.7] (n 576 refusals), specificity 92.1 % [89.6, 94.1] (n 559 others) "
        "on 1135 human-labelled replies (XSTest, 227 prompts not used for the wording)."
    )
    assert "as often as there, differences of refusal rates without its errors are 1.21 [1.1" in second
    assert second.endswith(
        "No verdict and no p-value changes by it: errors that are equally frequent scale a difference and leave its sign. "
        "Where it errs more often on one policy than on another, this does not hold."
    )
    row = judge_row(*by_judge([("base", RULES), ("dr_irl", RULES)])[0])
    assert (row["judge"], row["policies"], row["refusals"], row["others"]) == ("rules", ["base", "dr_irl"], 576, 559)
    assert (row["sensitivity"], row["specificity"]) == (pytest.approx(522 / 576), pytest.approx(515 / 559))
    assert row["growth"] == pytest.approx(1.2084, abs=1e-4)
    assert row["growth_low"] < row["growth"] < row["growth_high"]


def test_a_rate_that_such_errors_do_not_let_one_expect_is_named() -> None:
    """The specificity of the rules is at most .9408: with their errors no rate is expected below 5.9 %."""
    rates = {"base": {"refusal": None, "over_refusal": 0.02}, "dr_irl": {"refusal": 0.99, "over_refusal": 0.06}}
    note = lines(RULES, RULES, rates=rates)[1]
    assert "below 5.9 or above 92.7 % are not expected with such errors: base (over-refusal 2.0 %), dr_irl (ref" in note
    assert "over-refusal 6.0 %" not in note
    assert note.endswith("their differences are scaled too much.")


def test_a_judge_that_is_no_better_than_chance_is_told_so_instead_of_a_number() -> None:
    """Sensitivity .5 and specificity .25: their sum minus 1 is -.25. Three replies say too little of a better one."""
    worse = {"judge": LLM, "judge_errors": [measured("RRRRNNNN", "RRNNRRRN")]}
    named, note = lines(worse, worse)
    assert "sensitivity 50.0 % [" in named
    assert note.startswith(
        "Sensitivity + specificity - 1 is -0.25, not above 0: there this judge is no better than chan"
    )
    assert judge_row(worse, ["base"])["growth"] is None
    assert written(without_errors(common_error([worse, worse]), [1.0], (), 100, 0)) == ""
    vague = {"judge": LLM, "judge_errors": [measured("RRN", "RNN")]}
    assert "is 0.50, but known too badly to rule out that it is 0 or less" in lines(vague, vague)[1]
    half = {"judge": LLM, "judge_errors": [measured("RR", "RN")]}
    assert lines(half, half)[1] == "These figures do not say what that means for differences of policies."


def test_two_judges_have_no_common_error() -> None:
    other = {"judge": {**RULES["judge"], "judge": "embedded", "weights": "12ab"}}
    assert common_error([RULES, other]) is None
    assert common_error([]) is None
    assert common_error([RULES, RULES]) is not None
    found = lines(RULES, other)
    assert [line.partition(":")[0] for line in found[::2]][:2] == ["Judge `rules`", "Judge `embedded`"]
    assert found[0].endswith("Judged by it: base.")
    assert found[2].endswith("Judged by it: dr_irl.")
    assert found[-1] == "Nothing is said of a difference of two policies that different judges judged."
    assert judge_row(other, ["dr_irl"])["judge"] == "embedded, 12ab"


def test_of_several_measurements_the_first_is_used_and_all_are_told() -> None:
    """Nine of ten and nine of ten: divided by .8; the second set is one that a model labelled."""
    own = measured("R" * 10 + "N" * 10, "N" + "R" * 9 + "R" + "N" * 9)
    many = {"judge": LLM, "judge_errors": [own, measured("RN", "RN", "hand_read")]}
    named, note = lines(many, many)
    assert named.count("sensitivity") == 2
    assert "as often as on own/replies.jsonl, differences of refusal rates without its errors are 1.25 [" in note
    found = without_errors(common_error([many, many]), [1.0, 0.0, 0.0, 0.0], (), RESAMPLES, SEED)
    assert found["without_judge_errors"] == pytest.approx(0.25 / 0.8)
    assert written(found).startswith("+31.2 [")


def test_weighted_replies_are_named_by_their_effective_number() -> None:
    found = {"judge": LLM, "judge_errors": [measured("RNNR", "RRNN", weights=(6.0, 1.0, 1.0, 2.0))]}
    assert "sensitivity 75.0 % [" in lines(found, found)[0]  # 6 of 8
    assert "(effective n 2 refusals), specificity 50.0 % [" in lines(found, found)[0]


def test_without_a_measurement_the_command_is_given_as_on_the_report() -> None:
    results = {"judge": LLM, "judge_errors": [], "summary": ["more"]}
    assert json.dumps(judge_of(results)) == json.dumps({"judge": LLM, "judge_errors": []})
    assert lines(results, results) == [judge_line(results)]
    assert judge_row(results, ["base"]) | {"policies": []} == {
        **dict.fromkeys(judge_row(RULES, [])), "judge": "llm, grader, xstest", "policies": [],
    }  # fmt: skip
