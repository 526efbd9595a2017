"""What a value of a row means as a label or as true and false, whatever type its file gives it.

The same table comes as text (csv), with numbers and booleans (JSON), or with fractions where integers have gaps
(parquet of pandas), so values are compared by what they mean. What cannot be read is an error and never passes a
filter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TRUE = frozenset({"true", "1", "yes", "y", "t", "on"})
_FALSE = frozenset({"false", "0", "no", "n", "f", "off"})
_WITH_ZEROS = re.compile(r"(-?\d+)\.0*")
_LONGEST_SHOWN = 80


class UnreadableError(ValueError):
    """Say that a value does not mean what its column is read for."""


def is_absent(value: object) -> bool:
    """Say whether there is no value: None, NaN (an empty cell of pandas) or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def shown(value: object) -> str:
    """Return a value with its type, for messages."""
    text = repr(value)
    return f"{text if len(text) <= _LONGEST_SHOWN else f'{text[: _LONGEST_SHOWN - 3]}...'} ({type(value).__name__})"


def label(value: object) -> str:
    """Return a value as the text of a label: text without blanks around it, `true`, `false`, a number; or nothing.

    Args:
        value: of any type; 3 and 3.0 give `3`.

    Returns:
        The text; empty when there is no value.

    Raises:
        UnreadableError: it is a list, an object, bytes or something else that is no label.
    """
    if is_absent(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise UnreadableError(f"{shown(value)}, where one text, number or boolean is needed")


def truth(value: object) -> bool | None:
    """Return what a value says: true, false, or nothing.

    Args:
        value: a boolean, 1 or 0, or such a value as text (`true`, `yes`, `1`, in any case).

    Raises:
        UnreadableError: it is something else.
    """
    if is_absent(value):
        return None
    word = _key(value)
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise UnreadableError(f"{shown(value)}, which is neither true nor false")


def matches(value: object, wanted: Iterable[object]) -> bool:
    """Say whether a value is one of the wanted ones.

    Args:
        value: of a row.
        wanted: texts, numbers or booleans. A boolean is compared as one: true is `true`, `True`, `yes` and 1. Case and
            blanks around a text do not count.

    Raises:
        UnreadableError: there is no value, or it cannot be compared.
    """
    if is_absent(value):
        raise UnreadableError("empty")
    found = False
    for one in wanted:
        if isinstance(one, bool) or isinstance(value, bool):
            found |= truth(value) == _truth_or_none(one)
        else:
            found |= _key(value) == _key(one)
    return found


def _truth_or_none(wanted: object) -> bool | None:
    """Return what a wanted value says; None for one that is no boolean, which no boolean equals."""
    try:
        return truth(wanted)
    except UnreadableError:
        return None


def _key(value: object) -> str:
    text = label(value).casefold()
    zeros = _WITH_ZEROS.fullmatch(text)
    return zeros[1] if zeros else text
