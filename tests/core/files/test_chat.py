"""Chat format: which turn is meant, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drirl_core.files.chat import chat_column, text_of
from drirl_core.files.values import UnreadableError

CHAT = [
    {"role": "system", "content": "You are nice."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "second"},
    {"role": "assistant", "content": "two"},
]


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        [{**turn, "name": None} for turn in CHAT],
        [{"from": {"user": "human", "assistant": "gpt"}.get(t["role"], "system"), "value": t["content"]} for t in CHAT],
        [
            {"from": {"user": "Human", "assistant": "ChatGPT"}.get(t["role"], "system"), "value": t["content"]}
            for t in CHAT
        ],
        [{"role": turn["role"].title(), "content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT],
        json.dumps(CHAT),
        str(CHAT),
        tuple(CHAT),
    ],
)
def test_the_first_turn_of_the_user_and_the_last_of_the_assistant(value: Any) -> None:
    assert text_of(value, "user") == "first"
    assert text_of(value, "assistant") == "two"


@pytest.mark.parametrize(
    "value",
    ["plain", '["a", "b"]', '{"from": "me", "to": "you"}', "", None, 3, b"raw", [], [1], [{"a": 1}], {"x": True}],
)
def test_other_values_stay_as_they_are(value: Any) -> None:
    assert text_of(value, "user") is value


def test_one_turn_alone_is_a_chat_and_empty_turns_do_not_count() -> None:
    assert text_of({"role": "user", "content": "x"}, "user") == "x"
    calls = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "assistant", "content": None},
    ]
    assert text_of(calls, "assistant") == "y"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"role": "system", "content": "x"}], "without a turn of the user; roles found: system"),
        ([{"role": "user", "content": " "}], "without a turn of the user"),
        ([{"role": "user", "content": 3}], r"a turn that is no text: 3 \(int\)"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a turn that is no text"),
        ("[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]", "cannot be parsed"),
    ],
)
def test_a_chat_that_does_not_say_it_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        text_of(value, "user")


@pytest.mark.parametrize("value", ["[broken", "User: x\nAssistant: y", ["a", "b"], [], 3])
def test_a_column_taken_for_its_name_alone_must_hold_a_chat(value: Any) -> None:
    with pytest.raises(UnreadableError, match="where a list of turns with role and content is needed"):
        text_of(value, "user", needed=True)
    assert text_of(CHAT, "user", needed=True) == "first"
    assert text_of(None, "user", needed=True) is None and text_of(" ", "user", needed=True) == " "


def test_the_column_is_found_by_its_name() -> None:
    assert chat_column(["id", "conversations", "messages"]) == "messages"
    assert chat_column(["id", "prompt"]) == ""
