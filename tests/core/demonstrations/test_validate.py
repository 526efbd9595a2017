"""What may be learned from, and the reason when it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.demonstrations import validate
from drirl_core.demonstrations.validate import (
    AnswerIndex,
    Failure,
    check_demonstration,
    check_helpful,
    check_refusal,
    redirects,
)
from drirl_core.text import chain_of_draft as cod

DATA = Path(validate.__file__).parents[1] / "data"
DRAFT = "asks to hurt\noffer help\n####\n"


def reason(text: object, index: AnswerIndex | None = None) -> str:
    checked = check_demonstration(text, 5, index)
    return checked.reason if isinstance(checked, Failure) else "passes"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DRAFT + "I can't help with that, but a counsellor can.", "passes"),
        (
            DRAFT + "That would wound her for years. Please talk to someone you trust before you write anything.",
            "passes",
        ),
        (DRAFT + "Let's write a kind card instead.", "passes"),
        ("I can't help with that.", "bad_format"),
        ("####\nI can't help with that.", "bad_format"),
        ("this step has exactly six words\n####\nI can't help.", "step_too_long"),
        ("1. this step has five words\n####\nI can't help.", "passes"),
        (DRAFT, "empty_answer"),
        (DRAFT + "...", "empty_answer"),
        (DRAFT + "Sure, here is a list of insults for him.", "complies"),
        (DRAFT + "Step 1: find the lock. Step 2: open it.", "complies"),
        (DRAFT + "I'm sorry, but here goes anyway. Step 1: find the lock.", "complies"),
        (DRAFT + "Certainly! I can write that letter for you.", "complies"),
        (DRAFT + "Of course, you'll need a ladder.", "complies"),
        (DRAFT + "Go round the back, where nobody looks.", "complies"),
        (DRAFT + "Use the window instead of the door.", "complies"),
        (DRAFT + "I'd be happy to explain how it is done.", "complies"),
        (DRAFT + "Try this instead:\n1. Open the door.\n2. Walk in.", "complies"),
        (None, "missing_value"),
        (float("nan"), "missing_value"),
        (7, "missing_value"),
        ("  ", "missing_value"),
        (DRAFT + "I can\ufffdt help.", "undecodable"),
        (DRAFT + "I can\udc80t help.", "undecodable"),
    ],
)
def test_each_demonstration_passes_or_has_its_reason(text: object, expected: str) -> None:
    assert reason(text) == expected
    assert expected in {"passes", *validate.REASONS}


def test_the_limit_of_words_per_step_is_a_setting() -> None:
    text = "six words are in this step\n####\nI can't help."
    assert isinstance(check_demonstration(text, 6), cod.Demonstration)
    failure = check_demonstration(text, 5)
    assert isinstance(failure, Failure)
    assert "6 words; at most 5" in failure.detail


def test_exact_and_near_copies_of_an_answer_are_found() -> None:
    """23 words (`can't` counts as two) have 21 runs of three; one more word makes 22 runs, 21 of them shared: 21/22."""
    answer = (
        "I can't help with that because nobody should be followed home at night, yet a safe walk app is free for you"
    )
    index = AnswerIndex()
    index.add("first prompt", answer)
    assert index.nearest(answer) == ("first prompt", 1.0)
    assert index.nearest(f"{answer} today") == ("first prompt", pytest.approx(21 / 22))
    assert reason(DRAFT + answer, index) == "copied_answer"
    assert reason(DRAFT + f"{answer} today", index) == "copied_answer"
    assert reason(DRAFT + answer.upper().replace(",", ""), index) == "copied_answer"
    changed = answer.replace("nobody", "no one").replace("free for", "cheap for")
    assert reason(DRAFT + changed, index) == "passes"
    assert index.nearest("entirely different words here") is None


@given(st.lists(st.text("ab ", min_size=1, max_size=12), min_size=1, max_size=8), st.text("ab ", max_size=12))
def test_the_index_finds_what_comparing_with_every_answer_finds(answers: list[str], asked: str) -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}

    index = AnswerIndex()
    for number, answer in enumerate(answers):
        index.add(str(number), answer)
    best = max(len(runs(a) & runs(asked)) / len(runs(a) | runs(asked)) for a in answers)
    found = index.nearest(asked)
    assert (found[1] if found else 0) == pytest.approx(best)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Please call a crisis line tonight.", True),
        ("It may help to talk to a teacher.", True),
        ("Consider reporting it, and we can draft the letter.", True),
        ("Instead, let's plan a calm talk.", True),
        ("Consider the weather and bring gloves.", False),
        ("Use a spoon instead.", False),
        ("", False),
    ],
)
def test_redirections(answer: str, expected: bool) -> None:
    assert redirects(answer) is expected


def test_a_helpful_answer_must_not_refuse() -> None:
    assert check_helpful("Boil the egg for six minutes.") is None
    for answer, expected in (
        ("I'm sorry, but I can't help with eggs.", "refuses"),
        ("", "missing_value"),
        (None, "missing_value"),
        ("a\n####\nb", "bad_format"),
    ):
        failure = check_helpful(answer)
        assert failure is not None
        assert failure.reason == expected


def test_a_refusal_must_refuse() -> None:
    assert check_refusal("I'm sorry, but I can't help with that.") is None
    for text, expected in (("Boil the egg for six minutes.", "complies"), (" ", "missing_value")):
        failure = check_refusal(text)
        assert failure is not None
        assert failure.reason == expected


def test_every_embedded_demonstration_passes() -> None:
    index = AnswerIndex()
    rows = [json.loads(line) for line in (DATA / "demonstrations.jsonl").read_text(encoding="utf-8").splitlines()]
    failures = []
    for row in rows:
        checked = check_demonstration(row["demonstration"], 5, index)
        if isinstance(checked, Failure):
            failures.append((row["prompt"], checked))
        else:
            assert cod.render(checked.steps, checked.answer) == row["demonstration"]
            index.add(row["prompt"], checked.answer)
    assert failures == []
    assert len(rows) >= 7 * 60


def test_every_embedded_helpful_answer_passes_and_most_refusals_do() -> None:
    helpful = [json.loads(line)["answer"] for line in (DATA / "helpful.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer for answer in helpful if check_helpful(answer)] == []
    refusals = [
        json.loads(line)["refusal"] for line in (DATA / "refusals.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert sum(check_refusal(text) is None for text in refusals) >= 0.8 * len(refusals)


def test_embedded_helpful_answers_would_not_pass_as_demonstrations_of_refusal() -> None:
    """Compliance must not pass: of the full harmless answers only those that refer to a doctor or friend pass."""
    helpful = [json.loads(line)["answer"] for line in (DATA / "helpful.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sum(reason(DRAFT + answer) == "passes" for answer in helpful) <= 0.08 * len(helpful)
