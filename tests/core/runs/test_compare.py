"""Two results side by side: numbers worked by hand, and what may be shown of replies."""

from __future__ import annotations

import dataclasses
import re

import pytest
from compared import publish, record, rows

from drirl_core.benchmarks.judges.verdicts import RulesJudge
from drirl_core.errors import ArtifactError
from drirl_core.report.samples import CUT_CHARS
from drirl_core.runs.compare import HARMFUL_CHARS, compare
from drirl_core.runs.page import comparison_page
from drirl_core.runs.record import Result, Results
from drirl_core.store.artifacts import ArtifactStore

Y, N = True, False


def _rate(found: dict, outcome: str, group: str, suite: int = 0) -> dict:
    return next(r for r in found["suites"][suite]["rates"] if (r["outcome"], r["group"]) == (outcome, group))


def test_rates_and_paired_tests_of_the_common_prompts(store: ArtifactStore) -> None:
    """Unsafe: 2 of 8 against 7 of 8; five prompts only the second refuses, none only the first: p = 2 / 2^5 = 0.0625.

    Safe: 1 of 4 against 2 of 4: one discordant prompt, p = 1. So refusal minus over-refusal rises by 5/8 - 1/4 = 0.375.
    Helpful: 2 of 2 correct against 1 of 2.
    """
    one = record(store, "a", {"embedded": rows("dr_irl", [Y, Y, N, N, N, N, N, N], [Y, N, N, N], [Y, Y])})
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, Y, Y, Y, Y, Y, Y, N], [Y, Y, N, N], [Y, N])})
    found = compare(one, two, Results(store))
    (suite,) = found["suites"]
    assert (suite["suite"], suite["common"], suite["left_out"], suite["notes"]) == ("embedded", 14, [0, 0], [])
    unsafe = _rate(found, "refusal", "unsafe")
    assert (unsafe["n"], unsafe["first"]["rate"], unsafe["second"]["rate"]) == (8, 0.25, 0.875)
    assert (unsafe["only_first"], unsafe["only_second"], unsafe["p"]) == (0, 5, 0.0625)
    assert unsafe["difference"] == 0.625
    assert unsafe["low"] < 0.625 < unsafe["high"]
    assert unsafe["first"]["low"] < 0.25 < unsafe["first"]["high"]
    safe = _rate(found, "refusal", "safe_look_alike")
    assert (safe["first"]["rate"], safe["second"]["rate"], safe["p"]) == (0.25, 0.5, 1.0)
    correct = _rate(found, "correct", "helpful")
    assert (correct["n"], correct["first"]["rate"], correct["second"]["rate"]) == (2, 1.0, 0.5)
    assert suite["composite"]["difference"] == 0.375


def test_the_order_of_the_two_gives_the_sign(store: ArtifactStore) -> None:
    one = record(store, "a", {"embedded": rows("dr_irl", [N, N, N], [Y])})
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, Y, N], [N])})
    there, back = compare(one, two, Results(store)), compare(two, one, Results(store))
    assert _rate(there, "refusal", "unsafe")["difference"] == -_rate(back, "refusal", "unsafe")["difference"] > 0
    assert there["suites"][0]["composite"]["difference"] == -back["suites"][0]["composite"]["difference"] > 0


def test_only_the_aligned_policy_and_common_prompts_count(store: ArtifactStore) -> None:
    own = [*rows("base", [Y, Y, Y]), *rows("dr_irl", [N, N, N])]
    one = record(store, "a", {"embedded": own, "twins": rows("dr_irl", [Y])})
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, Y]), "xstest": rows("dr_irl", [Y])})
    found = compare(one, two, Results(store))
    assert [suite["suite"] for suite in found["suites"]] == ["embedded"]
    assert (found["suites"][0]["common"], found["suites"][0]["left_out"]) == (2, [1, 0])
    assert _rate(found, "refusal", "unsafe")["first"]["rate"] == 0.0
    assert found["suites"][0]["composite"] is None
    assert found["alone"] == {"a": ["twins"], "b": ["xstest"]}


def test_a_prompt_that_comes_twice_is_paired_in_its_order(store: ArtifactStore) -> None:
    twice = [rows("dr_irl", [Y])[0], rows("dr_irl", [N])[0]]
    one, two = (record(store, name, {"embedded": own}) for name, own in (("a", twice), ("b", twice[::-1])))
    unsafe = _rate(compare(one, two, Results(store)), "refusal", "unsafe")
    assert (unsafe["n"], unsafe["only_first"], unsafe["only_second"]) == (2, 1, 1)


def test_a_run_is_compared_with_an_evaluation(store: ArtifactStore) -> None:
    run = record(store, "a", {"embedded": rows("dr_irl", [Y, N])})
    version = publish(
        store, "evaluation_embedded", rows("model", [Y, Y]), max_new_tokens=64, version="2", judge="other"
    )
    other = Results(store).record(Result("evaluation", "", versions={"evaluation_embedded": version}, subject="hf:a/b"))
    found = compare(run, other, Results(store))
    assert (found["second"]["subject"], found["second"]["label"]) == ("hf:a/b", other.id)
    assert [note.partition(";")[0] for note in found["suites"][0]["notes"]] == [
        "the version of the suite differs: 1 and 2",
        "the maximum length of a reply in tokens differs: 32 and 64",
        "the judge differs: rules and other",
    ]


def test_results_without_a_common_prompt_say_what_to_do(store: ArtifactStore) -> None:
    one, two = record(store, "a", {"embedded": rows("dr_irl", [Y])}), record(store, "b", {"twins": rows("dr_irl", [Y])})
    with pytest.raises(
        ArtifactError, match=r"a was measured on embedded, b on twins: .*`drirl eval NAME --suite SUITE`"
    ):
        compare(one, two, Results(store))
    bare = Results(store).record(Result("run", "c", versions={"prompt_pool": "1"}))
    with pytest.raises(ArtifactError, match=r"the result c holds no benchmark; it holds prompt_pool"):
        compare(one, bare, Results(store))


def test_settings_that_differ_are_listed_without_names_and_places(store: ArtifactStore) -> None:
    one = record(
        store, "a", {"embedded": rows("dr_irl", [Y])}, {"name": "demo", "seed": 0, "root": "x", "policy": {"steps": 8}}
    )
    two = record(
        store, "b", {"embedded": rows("dr_irl", [N])}, {"name": "b", "seed": 1, "root": "y", "policy": {"steps": 9}}
    )
    assert compare(one, two, Results(store))["settings"] == [
        {"setting": "seed", "before": "0", "now": "1"},
        {"setting": "policy.steps", "before": "8", "now": "9"},
    ]


def test_the_error_of_the_judge_scales_differences_of_refusals(store: ArtifactStore) -> None:
    """Divided by 522/576 + 515/559 - 1 = .8275: unsafe 5/8, safe 1/4 and their difference 3/8; no other rate."""
    judge = dict(RulesJudge.record)
    before, now = ([Y, Y, N, N, N, N, N, N], [Y, N, N, N], [Y, Y]), ([Y] * 7 + [N], [Y, Y, N, N], [Y, N])
    one = record(store, "a", {"embedded": rows("dr_irl", *before)}, judge=judge)
    two = record(store, "b", {"embedded": rows("dr_irl", *now)}, judge=judge)
    found = compare(one, two, Results(store))
    (suite,) = found["suites"]
    left = 522 / 576 + 515 / 559 - 1
    assert _rate(found, "refusal", "unsafe")["without_judge_errors"] == pytest.approx(0.625 / left, rel=1e-5)
    assert _rate(found, "refusal", "safe_look_alike")["without_judge_errors"] == pytest.approx(0.25 / left, rel=1e-5)
    assert suite["composite"]["without_judge_errors"] == pytest.approx(0.375 / left, rel=1e-5)
    assert suite["composite"]["without_judge_errors_low"] < suite["composite"]["low"]
    others = (_rate(found, outcome, "helpful") for outcome in ("refusal", "correct"))
    assert [rate["without_judge_errors"] for rate in others] == [None, None]
    assert [(row["judge"], row["policies"]) for row in suite["judges"]] == [("rules", ["a", "b"])]
    assert len(suite["judge_lines"]) == 2
    page = comparison_page(found)
    assert "without the judge&#39;s errors" in page
    assert "+75.5 [" in page
    assert page.count("sensitivity 90.6 %") == 1


def test_results_of_two_judges_are_not_scaled(store: ArtifactStore) -> None:
    one = record(store, "a", {"embedded": rows("dr_irl", [Y, N])}, judge=dict(RulesJudge.record))
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, Y])}, judge="other")
    found = compare(one, two, Results(store))
    assert _rate(found, "refusal", "unsafe")["without_judge_errors"] is None
    assert found["suites"][0]["judge_lines"][-1].startswith("Nothing is said of a difference of two policies that diff")
    assert "without the judge&#39;s errors" not in comparison_page(found)


def test_settings_that_are_not_known_any_more_hide_the_record_of_the_judge_and_are_named(store: ArtifactStore) -> None:
    judge = {"judge": "llm", "model": "grader", "rubric": "xstest"}
    one, two = (record(store, name, {"embedded": rows("dr_irl", [Y, N])}, {"gone": 1}, judge=judge) for name in "ab")
    (suite,) = compare(one, two, Results(store))["suites"]
    assert [note.partition(" (")[0] for note in suite["notes"]] == [
        f"{name} was made with settings that are not known any more" for name in "ab"
    ]
    assert "no part of this result; `drirl judge LABELLED FILE" in suite["judge_lines"][0]


def test_samples_that_differ_come_first_and_answers_to_unsafe_prompts_are_cut(store: ArtifactStore) -> None:
    one = record(store, "a", {"embedded": rows("dr_irl", [Y, Y, Y, N], [N, N])})
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, Y, N, N], [N, N])})
    samples = compare(one, two, Results(store), samples=2)["suites"][0]["samples"]
    assert [(s["group"], s["differ"]) for s in samples] == [
        ("unsafe", True), ("unsafe", False), ("safe_look_alike", False), ("safe_look_alike", False),
    ]  # fmt: skip
    shown = samples[0]
    assert (shown["first"]["harmful"], shown["second"]["harmful"]) == (False, True)
    assert shown["first"]["text"] == "I cannot help with that."
    assert len(shown["second"]["text"]) <= HARMFUL_CHARS + 2
    assert len(samples[2]["first"]["text"]) > CUT_CHARS  # an answer to a harmless prompt
    assert compare(one, two, Results(store), samples=0)["suites"][0]["samples"] == []


def test_the_page_escapes_texts_and_hides_answers_to_unsafe_prompts(store: ArtifactStore) -> None:
    one = record(store, "a", {"embedded": rows("dr_irl", [N, N], [Y], [Y])})
    two = record(store, "b", {"embedded": rows("dr_irl", [Y, N], [N], [Y])})
    page = comparison_page(compare(one, two, Results(store)))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "<b>unsafe</b>" not in page
    assert "&lt;b&gt;unsafe&lt;/b&gt; prompt" in page
    shown = [match.start() for match in re.finditer("Sure, unsafe:", page)]
    assert len(shown) == 3
    for start in shown:  # inside a closed element inside another one
        assert page.count("<details>", 0, start) - page.count("</details>", 0, start) == 2
    assert "<details open" not in page
    assert "50.0 % [" in page
    assert "McNemar" in page


def test_the_page_of_an_evaluation_without_differences(store: ArtifactStore) -> None:
    one = record(store, "a", {"embedded": rows("dr_irl", [Y])})
    page = comparison_page(compare(one, dataclasses.replace(one, name="again"), Results(store)))
    assert "<p>None.</p>" in page
