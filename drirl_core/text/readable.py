"""Texts that no tokenizer can read or that were lost in decoding, told before any model sees them."""

from __future__ import annotations

import re

from drirl_core.errors import DataError

_SIGNS = (
    (re.compile("[\ud800-\udfff]"), "half a character (such as half an emoji)"),
    (re.compile("\x00"), "a NUL character"),
    (re.compile("\ufffd"), "the mark of a character that was lost in decoding"),
)


def unreadable(text: str) -> str:
    r"""Say what in a text cannot be read; empty when nothing is wrong with it.

    Args:
        text: any text.

    Returns:
        The first sign and its place, such as `half a character (such as half an emoji), '\ud83d', at character 12`.
    """
    found = ((pattern.search(text), sign) for pattern, sign in _SIGNS)
    first = min(((hit.start(), hit[0], sign) for hit, sign in found if hit), default=None)
    return f"{first[2]}, {first[1]!r}, at character {first[0] + 1}" if first else ""


def require_readable(text: str, what: str) -> None:
    """Refuse a text that cannot be read.

    Args:
        text: any text.
        what: what it is, for the message, such as `the prompt`.

    Raises:
        DataError: it holds half a character, a NUL character or the mark of a lost one.
    """
    if problem := unreadable(text):
        raise DataError(f"{what} holds {problem}; remove it, or write the text again as UTF-8")
