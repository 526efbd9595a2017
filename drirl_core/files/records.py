"""What every reader returns: a row with its place, and the reason where it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_UNNAMED = re.compile(r"[\s\ufeff]*|Unnamed: \d+(?:\.\d+)*(?:_level_\d+)?|__index_level_\d+__")


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file.

    Args:
        row: 1-based number: the line where it starts in a file of JSON lines, the row below the header in a csv file,
            the row in the others.
        values: column to value; empty when the row could not be parsed.
        reason: `undecodable` or `missing_value` when the row cannot be used, else empty.
        detail: what is wrong, for people.
        text: what can be shown of a row that could not be parsed.
        line: 1-based line of the file where the row starts; 0 where a file has no lines.
    """

    row: int
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    text: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """Row and line, for people."""
        if self.line == self.row:
            return f"line {self.line}"
        return f"row {self.row} (line {self.line})" if self.line else f"row {self.row}"

    @property
    def told(self) -> str:
        """What is wrong, with the line where the number of the row does not say it."""
        return f"line {self.line}: {self.detail}" if self.detail and self.line not in (0, self.row) else self.detail


def is_unnamed(column: str) -> bool:
    """Say whether a column has no heading of its own: an empty one, or the stand-in of pandas for an empty one."""
    return bool(_UNNAMED.fullmatch(column))


def named_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that have a heading; a column without one is no column."""
    return {name: value for name, value in values.items() if not is_unnamed(name)}


def without_nul(record: Record) -> Record:
    """Return the record, marked as unreadable when a text of it holds a NUL character."""
    if record.reason:
        return record
    bad = next((name for name, value in record.values.items() if isinstance(value, str) and "\0" in value), None)
    if bad is None:
        return record
    detail = f"column {bad!r} holds a NUL character; save the file as UTF-8 text"
    return replace(record, reason="undecodable", detail=detail)


def column_names(records: Sequence[Record]) -> list[str]:
    """Return the names of the columns that occur in any row, in the order met."""
    return list(dict.fromkeys(name for record in records for name in record.values))
