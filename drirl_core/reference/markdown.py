"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

MADE = (
    "<!-- Made from the code by `python -m drirl_core.reference`; a test fails when this file is out of date. "
    "Do not edit it. -->"
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table and an empty line; nothing without rows."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    if lines:
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        yield from lines
        yield ""


def cell(value: object) -> str:
    """Write a value on one line, without ending its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
