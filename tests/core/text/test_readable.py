"""Texts that no model can read."""

from __future__ import annotations

import pytest

from drirl_core.errors import DataError
from drirl_core.text.readable import require_readable, unreadable


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fine \U0001f600 \u00e9\n\t", ""),
        ("", ""),
        ("a \ud83d", "half a character (such as half an emoji), '\\ud83d', at character 3"),
        ("\udc80 \ufffd", "half a character (such as half an emoji), '\\udc80', at character 1"),
        ("ab\0", "a NUL character, '\\x00', at character 3"),
        ("\ufffd", "the mark of a character that was lost in decoding, '\ufffd', at character 1"),
    ],
)
def test_the_first_sign_and_its_place_are_told(text: str, problem: str) -> None:
    assert unreadable(text) == problem


def test_a_text_from_the_command_line_is_refused_by_its_name() -> None:
    require_readable("fine", "the prompt")
    with pytest.raises(DataError, match=r"^the prompt holds half a character .*; remove it, or write the text again"):
        require_readable("caf\udce9", "the prompt")
