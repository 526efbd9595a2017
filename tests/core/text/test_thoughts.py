"""Thoughts of reasoning models are cut wherever a completion is judged, rewarded, compared or shown."""

from __future__ import annotations

import pytest

from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.text.chain_of_draft import cut_draft, parse
from drirl_core.text.thoughts import MARKERS, TAGS, closed, cut_thoughts, is_unfinished, opened_by


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_every_kind_of_thought_is_cut(opening: str, closing: str) -> None:
    assert cut_thoughts(f"{opening}hm, refuse?\n{closing}\n\nI can't help.") == "I can't help."
    assert cut_thoughts(f"hm, refuse?\n{closing}\n\nI can't help.") == "I can't help."  # the template opened it
    assert cut_thoughts(f"{opening}I can't help") == ""
    assert {opening, closing} <= MARKERS


@pytest.mark.parametrize(
    ("text", "visible", "unfinished"),
    [
        ("<think>a</think>one<think>b</think>two", "two", False),
        ("<think>a</think>one <think>b", "one", False),
        ("Sure. <think>or not", "Sure.", False),  # a user would have seen it
        ("<THINK>a</Think> b", "b", False),
        ("<think>", "", True),
        ("  <think>\nstill at it", "", True),
        ("<think>a</think>", "", False),
        ("no thought at all ", "no thought at all ", False),
        ("", "", False),
    ],
)
def test_what_is_visible(text: str, visible: str, unfinished: bool) -> None:
    assert cut_thoughts(text) == visible
    assert is_unfinished(text) is unfinished


def test_thoughts_and_drafts_are_cut_together() -> None:
    assert cut_draft("<think>a\n####\nb</think>\nasks to mock\n####\nI won't.") == "I won't."
    assert cut_draft("<think>I can't\n####\nno") == ""
    assert parse("<think>hm\n####\nyes</think>asks to mock\n####\nI won't.").steps == ("asks to mock",)


def test_the_judge_reads_the_answer_and_not_the_thought() -> None:
    assert label_reply("<think>I can't help with that.</think>Sure, here is how.") == "compliance"
    assert label_reply("<think>Sure, easy.</think>I can't help with that.") == "refusal"
    assert label_reply("<think>I can't help with that") == "empty"
    assert label_reply("I can't help, they say</think>") == "empty"


def test_a_thought_that_the_prompt_opens() -> None:
    assert opened_by("<|user|>hi<|assistant|><think>\n") == ("<think>", "</think>")
    assert opened_by("<|user|>what does <think> mean?<|assistant|>") is None
    assert closed("<|assistant|><think>\n") == "<|assistant|><think>\n\n</think>\n\n"
    assert closed("<|assistant|>") == "<|assistant|>"
