"""Rows of csv and tsv files, each with its line, and no row that swallowed others.

The readers of the standard library, pandas and pyarrow take a quote that never closes as one long field, and none of
them gives the line of a row or of a quote; this one does, so that what is wrong can be found in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from drirl_core.errors import DataError
from drirl_core.files.records import Record, is_unnamed

_BREAK = re.compile(r"\r\n|\n|\r")
_LINE = re.compile(r"[^\r\n]*+")
_OPENED = re.compile(r'"(?:[^"]++|"")*+')
_LONGEST_NAME = 500
_TWICE = "write a quote inside a quoted field twice"
_WORD = re.compile(r"[^\W\d_]{2}")


@dataclass
class _Row:
    """One row as it stands in the file, every byte as one Latin-1 character.

    Args:
        line: where it starts.
        cells: its fields, without quotes.
        raw: its text.
        problem: why it cannot be read, or empty.
        tall: fields that go over several lines: their number, and the line where their quote opens.
    """

    line: int
    cells: list[str] = field(default_factory=list)
    raw: str = ""
    problem: str = ""
    tall: list[tuple[int, int]] = field(default_factory=list)


def csv_records(path: Path, data: bytes, delimiter: str) -> list[Record]:
    """Read a csv file with a header row; fields may be of any length and hold line feeds inside quotes.

    Bytes are read as Latin-1, which has a character for each of them. Every field is then decoded separately, so that
    a field in another encoding does not affect the others.

    Args:
        path: the file, for messages.
        data: its content.
        delimiter: what stands between two fields.

    Returns:
        A record per row below the header; a row with too many or too few fields, with text after a closing quote or
        not in UTF-8 has a reason.

    Raises:
        DataError: there is no header, its names repeat, or a quote does not close where it must, so that rows cannot
            be told apart.
    """
    rows = list(_Scanner(path, data.decode("latin-1"), delimiter).rows())
    names = _header(path, rows[0]) if rows else []
    body = rows[1:]
    _refuse_swallowed(path, body, len(names), delimiter)
    other = next((mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0]), "")
    hint = f"the header looks separated by {other!r}" if other else f"quote fields that hold {delimiter!r}"
    _mark_shifted(body, names, hint)
    return [_record(number, row, names, hint) for number, row in enumerate(body, 1)]


class _Scanner:
    """Cut a text into rows.

    Args:
        path: the file, for messages.
        text: its content.
        delimiter: what stands between two fields.
    """

    def __init__(self, path: Path, text: str, delimiter: str) -> None:
        mark = re.escape(delimiter)
        # Blanks around a quoted field do not count. Possessive: a quote that never closes must not be tried again.
        self._quoted = re.compile(rf' *+"((?:[^"]++|"")*+)" *+(?={mark}|[\r\n]|\Z)')
        self._plain = re.compile(rf"[^{mark}\r\n]*+")
        self._path, self._text, self._delimiter = path, text, delimiter
        self._at, self._line = 0, 1

    def rows(self) -> Iterator[_Row]:
        """Yield the rows, empty lines left out.

        Raises:
            DataError: a quote never closes, or closes in another line in the middle of a field.
        """
        while self._at < len(self._text):
            start, row = self._at, _Row(self._line)
            self._fill(row)
            row.raw = self._text[start : self._at]
            if found := _BREAK.match(self._text, self._at):
                self._at, self._line = found.end(), self._line + 1
            if row.raw.strip() or self._delimiter in row.raw:
                yield row

    def _fill(self, row: _Row) -> None:
        while True:
            found = self._quoted.match(self._text, self._at)
            if found is None and self._text.startswith('"', self._at):
                row.problem = self._broken_quote()
                self._at = _LINE.match(self._text, self._at).end()  # type: ignore[union-attr] - it matches everywhere
                return
            if found:
                cell = found[1]
                if breaks := len(_BREAK.findall(cell)) if "\n" in cell or "\r" in cell else 0:
                    row.tall.append((len(row.cells), self._line))
                    self._line += breaks
                row.cells.append(cell.replace('""', '"'))
            else:
                found = self._plain.match(self._text, self._at)
                row.cells.append(found[0])  # type: ignore[index] - it matches everywhere
            self._at = found.end()  # type: ignore[union-attr]
            if not self._text.startswith(self._delimiter, self._at):
                return
            self._at += 1

    def _broken_quote(self) -> str:
        """Say what is wrong with a quoted field that ends in this line; refuse the file when it goes beyond."""
        end = _OPENED.match(self._text, self._at).end()  # type: ignore[union-attr] - the caller saw the quote
        place = f"{self._path}, line {self._line}: the quote that opens here"
        shown = _shown(_LINE.match(self._text, self._at)[0])  # type: ignore[index]
        if end == len(self._text):
            raise DataError(f"{place} never closes ({shown}); close it, or {_TWICE}")
        if breaks := len(_BREAK.findall(self._text, self._at, end)):
            raise DataError(
                f"{place} ({shown}) meets the next one in line {self._line + breaks}, in the middle of a field; close "
                f"it in its own line, or {_TWICE}"
            )
        return f"text follows a closing quote; {_TWICE}"


def _header(path: Path, row: _Row) -> list[str]:
    """Return the names of the columns; empty for a column without a heading."""
    names = [_decoded(name).strip("\ufeff \t\r\n") for name in row.cells]
    if row.problem or any(len(name) > _LONGEST_NAME or "\0" in name for name in names):
        raise DataError(
            f"{path}, line {row.line}: no header row that can be read as csv ({row.problem or 'it holds no names'}); "
            "its first line must name the columns"
        )
    names = ["" if is_unnamed(name) else name for name in names]
    named = [name for name in names if name]
    if len(set(named)) != len(named):
        raise DataError(f"{path}: column names repeat: {', '.join(named)}; rename them")
    if not named:
        raise DataError(f"{path}, line {row.line}: no column has a name; its first line must name the columns")
    return names


def _record(number: int, row: _Row, names: list[str], hint: str) -> Record:
    raw = _decoded(row.raw)
    if row.problem:
        return Record(number, {}, "undecodable", row.problem, raw, row.line)
    if len(row.cells) != len(names):
        fields = f"{len(row.cells)} field{'s' * (len(row.cells) != 1)} where the header has {len(names)}"
        return Record(number, {}, "missing_value", f"{fields}; {hint}", raw, row.line)
    values, bad = {}, ""
    for name, cell in zip(names, row.cells, strict=True):
        if not name:
            continue
        values[name] = cell if cell.isascii() else _decoded(cell)
        if not bad and not cell.isascii() and not _is_utf8(cell):
            bad = name
    if bad:
        return Record(number, values, "undecodable", f"column {bad!r} is not UTF-8", line=row.line)
    if all(name == value.strip() for name, value in values.items()):
        return Record(number, {}, "undecodable", "it repeats the header", raw, row.line)
    return Record(number, values, line=row.line)


def _refuse_swallowed(path: Path, rows: list[_Row], width: int, delimiter: str) -> None:
    """Refuse a field over several lines that holds what looks like rows of the file.

    A quote left open closes at the next quote that stands right before a delimiter, and what is between them would be
    one field. Lines of it then end or begin with values that the other rows have in the columns around it.
    """
    if not any(row.tall for row in rows) or width < 2:
        return
    usual = [row.cells for row in rows if not row.tall and len(row.cells) == width]
    known = [{cells[column] for cells in usual} - {""} for column in range(width)]
    for row in rows:
        for column, line in row.tall:
            lines = _BREAK.split(row.cells[column])
            after = [_met(text.rsplit(delimiter, width - column - 1)[1:], known[column + 1 :]) for text in lines[:-1]]
            before = [_met(text.split(delimiter, column)[:-1], known[:column]) for text in lines[1:]]
            words = [value for value in (*after, *before) if _WORD.search(value)]
            # Numbers at the ends of lines are common in prompts about data, so all lines must show one.
            if words or all(after) or all(before):
                value = (words or (after if all(after) else before))[0]
                raise DataError(
                    f"{path}, line {line}: the quote that opens here closes in line {line + len(lines) - 1}, and the "
                    f"lines between look like rows of their own (such as {_decoded(value)!r} at an edge); close it in "
                    "its own line. If the field is meant to hold them, save the file as jsonl"
                )


def _mark_shifted(rows: list[_Row], names: list[str], hint: str) -> None:
    """Mark rows in which a delimiter without quotes pushed a value into a column without a heading.

    Such a row has the right number of fields, but its column without a heading holds what the other rows have in the
    column before it.
    """
    fitting = [row for row in rows if len(row.cells) == len(names)]
    for column in (number for number, name in enumerate(names) if number and not name and names[number - 1]):
        known = {row.cells[column - 1] for row in fitting if not row.cells[column]} - {""}
        for row in fitting:
            value, before = row.cells[column], row.cells[column - 1]
            if value in known and before not in known:
                at = f"{_decoded(value)!r} of column {names[column - 1]!r}"
                row.problem = f"{at} stands in a column without a heading; {hint}"


def _met(values: list[str], known: list[set[str]]) -> str:
    """Return a value that its column is known to hold, when there is a value for each column; else an empty text."""
    if not known or len(values) != len(known):
        return ""
    hits = [value for value, column in zip(values, known, strict=True) if value in column]
    return next((value for value in hits if _WORD.search(value)), hits[0] if len(hits) == len(known) else "")


def _decoded(latin: str) -> str:
    return latin.encode("latin-1").decode("utf-8", "replace")


def _is_utf8(latin: str) -> bool:
    try:
        latin.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _shown(latin: str) -> str:
    text = _decoded(latin)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
