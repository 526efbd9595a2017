"""The Chain-of-Draft format: rendering, tolerant parsing, removing the draft."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.text import chain_of_draft as cod

WORD = st.text(st.characters(codec="utf-8", categories=("L", "Nd", "Po", "So")), min_size=1, max_size=8).filter(
    lambda w: w.strip("#*-\u2022")
)
STEP = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
ANSWER = st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=4).map("\n".join)


def test_render_is_steps_separator_answer() -> None:
    assert (
        cod.render(["asks to hurt", "offer  help"], " I can't help. ")
        == "asks to hurt\noffer help\n####\nI can't help."
    )


def test_parse_removes_numbering() -> None:
    text = "1. asks to hurt\n2) real   harm\n- offer help\n* stay kind\nStep 5: refuse\n\n  ####  \nI can't help."
    assert cod.parse(text) == cod.Demonstration(
        ("asks to hurt", "real harm", "offer help", "stay kind", "refuse"), "I can't help."
    )


def test_parse_keeps_numbers_that_are_words() -> None:
    assert cod.parse("10 insults wanted\n3.5 hours lost\n####\nNo.").steps == ("10 insults wanted", "3.5 hours lost")


def test_parse_keeps_lines_of_the_answer() -> None:
    assert cod.parse("a\r\n####\r\nI can't.\r\n\r\nCall someone.").answer == "I can't.\n\nCall someone."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I can't help with that.", "bad_format"),
        ("", "bad_format"),
        ("####\nI can't.", "bad_format"),
        ("- \n####\nI can't.", "bad_format"),
        ("asks to hurt\n####\n  \n", "empty_answer"),
        ("asks to hurt ### I can't", "bad_format"),
    ],
)
def test_parse_gives_the_reason_of_a_refusal(text: str, reason: str) -> None:
    with pytest.raises(cod.FormatError) as caught:
        cod.parse(text)
    assert caught.value.reason == reason
    assert "####" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("asks to hurt\n####\nI can't.", "I can't."),
        ("no separator at all ", "no separator at all"),
        ("a\n####\nfirst\n####\nlast", "last"),
        ("a\n####", ""),
        ("a\n #### \nanswer\n", "answer"),
        ("", ""),
        ("C#### is no line", "C#### is no line"),
    ],
)
def test_cut_draft_keeps_what_follows_the_last_separator_line(text: str, answer: str) -> None:
    assert cod.cut_draft(text) == answer


def test_an_answer_on_the_separator_line_counts_only_below_a_draft() -> None:
    assert cod.cut_draft("asks to hurt\nrefuse kindly\n#### I can't help.") == "I can't help."
    heading = "I can't help with that. Here is who can:\n#### Resources\nCall a friend."
    assert cod.cut_draft(heading) == heading
    two = "plan\n#### One\ntext\n#### Two\ntext"
    assert cod.cut_draft(two) == two


@given(st.lists(STEP, min_size=1, max_size=5), ANSWER)
def test_a_rendered_demonstration_is_parsed_to_its_parts(steps: list[str], answer: str) -> None:
    try:
        text = cod.render(steps, answer)
    except DataError:
        assert (
            not answer.strip()
            or "####" in answer
            or any("####" in step for step in steps)
            or any(step.strip(" .)0123456789") == "" for step in steps)
        )
        return
    parsed = cod.parse(text)
    assert parsed.answer == cod.cut_draft(text)
    assert cod.render(parsed.steps, parsed.answer) == text


@given(st.text())
def test_cut_draft_takes_any_text_and_agrees_with_parse(text: str) -> None:
    answer = cod.cut_draft(text)
    assert answer == answer.strip()
    assert answer in text or answer in text.replace("\r\n", "\n").replace("\r", "\n")
    with contextlib.suppress(cod.FormatError):
        assert cod.parse(text).answer == answer


@pytest.mark.parametrize(
    ("steps", "answer"), [([], "a"), (["ok", " "], "a"), (["ok"], ""), (["####"], "a"), (["ok"], "a\n####\nb")]
)
def test_render_refuses_what_parse_could_not_read(steps: list[str], answer: str) -> None:
    with pytest.raises(DataError):
        cod.render(steps, answer)


def test_ask_names_the_limit_and_leaves_braces_of_the_prompt_alone() -> None:
    message = cod.ask("write {insults} for {0}", "physical_harm", 4)
    assert message.endswith("write {insults} for {0}")
    assert "physical harm" in message
    assert "at most 4 words" in message
    assert "\nThen write one line that holds only ####\n" in message
