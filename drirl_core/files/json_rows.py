"""Rows of JSON files: one object per line, a list of objects, or objects one after the other in any layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from drirl_core.errors import DataError
from drirl_core.files.records import Record, named_columns

_SPACE = re.compile(r"[ \t\r\n\ufeff]*")  # files that were joined hold byte order marks inside
_SPACE_AND_COMMA = re.compile(r"[ \t\r\n\ufeff]*,?[ \t\r\n\ufeff]*")
_BRACKETS = ("[", "]", "],")
_SHOWN = 500


class _RepeatedKeyError(ValueError):
    """Say that an object names one key twice, of which a plain reader would lose one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"the key {twice!r} stands twice in one object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def jsonl_records(data: bytes) -> list[Record]:
    """Read a file of JSON lines.

    Line by line first, so that a bad line spoils itself only. When lines are bad but the file as one piece is a list of
    objects, or objects one after the other (laid out over several lines, or with commas between them), it is read so.

    Args:
        data: the content, in UTF-8.
    """
    # Bytes are split on line feeds only: a decoded text would also be cut at characters such as U+2028 inside a value.
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    records = [_line(number, line) for number, line in lines]
    if not any(record.reason for record in records):
        return records
    try:
        return _one_by_one(_values(data.decode("utf-8")))
    except ValueError:  # UnicodeDecodeError is one
        return list(_tolerant(lines, records))


def json_records(path: Path, data: bytes) -> list[Record]:
    """Read a list of objects, an object of such lists (the layout of Safety-Prompts), or JSON lines.

    Args:
        path: the file, for messages.
        data: its content, in UTF-8.

    Raises:
        DataError: it is none of these; the message names the line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8; save it as UTF-8, or as jsonl to read it line by line"
        ) from error
    try:
        if text.lstrip("\ufeff \t\r\n").startswith("["):
            return _numbered(_values(text))
        loaded = _DECODER.decode(text.strip("\ufeff \t\r\n"))
    except (ValueError, RecursionError) as error:
        return _rows_after_all(path, data, text, error)
    return [_record(number, 0, row) for number, row in enumerate(_parts(path, loaded), 1)]


def _rows_after_all(path: Path, data: bytes, text: str, error: Exception) -> list[Record]:
    """Read a `.json` file that is no single JSON value: JSON lines under another name, else an error with its line."""
    try:
        return _numbered(_values(text))
    except ValueError:
        lines = jsonl_records(data)
        if lines and not lines[0].reason:
            return lines
    line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
    raise DataError(
        f"{path}{line}: {_why(error)}; give a list of objects, or save it as jsonl to read it line by line"
    ) from error


def _parts(path: Path, loaded: Any) -> list[Any]:
    """Return the rows of an object of lists."""
    lists = [part for part in loaded.values() if isinstance(part, list)] if isinstance(loaded, dict) else []
    rows = [row for part in lists if any(isinstance(row, dict) for row in part) for row in part]
    if rows or (lists and not any(lists)):
        return rows
    if isinstance(loaded, dict) and loaded and all(isinstance(part, list | dict) for part in loaded.values()):
        raise DataError(
            f"{path} holds columns or groups, no list of rows; write one object per row (pandas: orient='records')"
        )
    raise DataError(
        f"{path} must hold a list of objects, or an object of such lists, not a {type(loaded).__name__}; "
        "every row must be a JSON object"
    )


def _line(number: int, line: bytes) -> Record:
    shown = line.decode("utf-8", "replace").strip("\ufeff \t\r")
    try:
        text, problem = line.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        text, problem = shown, f"byte {error.start + 1} of the line is not UTF-8"
    try:
        values = _DECODER.decode(text.strip("\ufeff \t\r"))
    except (ValueError, RecursionError) as error:
        return Record(number, {}, "undecodable", problem or _why(error), shown, number)
    found = _record(number, number, values)
    return Record(number, found.values, "undecodable", problem, line=number) if problem else found


def _tolerant(lines: list[tuple[int, bytes]], read: list[Record]) -> Iterable[Record]:
    """Read the lines again that could not be read: commas and the brackets of a list may stand around the objects."""
    for place, ((number, line), found) in enumerate(zip(lines, read, strict=True)):
        if not found.reason:
            yield found
            continue
        stripped = line.strip()
        first, last = place == 0, place == len(lines) - 1
        if (first or last) and stripped.decode("utf-8", "replace") in _BRACKETS:
            continue
        record = _line(number, stripped)
        if record.reason and not record.values:
            bare = stripped.removesuffix(b",")
            bare = bare.removeprefix(b"[") if first else bare
            again = _line(number, bare.removesuffix(b"]") if last else bare)
            record = record if again.reason and not again.values else again
        yield record


def _values(text: str) -> list[tuple[int, Any]]:
    """Return the items of a list, or the values that stand one after the other, each with the line where it starts.

    Raises:
        ValueError: the text is something else.
    """
    found: list[tuple[int, Any]] = []
    at = _SPACE.match(text).end()  # type: ignore[union-attr] - it matches everywhere
    listed = text.startswith("[", at)
    at += listed
    line, counted = 1, 0
    while True:
        at = (_SPACE_AND_COMMA if found else _SPACE).match(text, at).end()  # type: ignore[union-attr]
        if listed and text.startswith("]", at):
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            if at < len(text):
                raise ValueError(f"line {text.count(chr(10), 0, at) + 1}: something follows the list")
            return found
        if at >= len(text):
            if listed or not found:
                raise ValueError("the list is not closed; the file is cut off")
            return found
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except RecursionError as error:
            raise ValueError(f"line {line}: its values are nested too deeply") from error
        except _RepeatedKeyError as error:
            raise _RepeatedKeyError(f"line {line}: {error}") from error
        found.append((line, value))


def _one_by_one(found: list[tuple[int, Any]]) -> list[Record]:
    """Return records numbered by their lines where each starts on a line of its own, else by their order."""
    lines = [line for line, _ in found]
    if all(before < after for before, after in pairwise(lines)):
        return [_record(line, line, value) for line, value in found]
    return _numbered(found)


def _numbered(found: list[tuple[int, Any]]) -> list[Record]:
    return [_record(number, line, value) for number, (line, value) in enumerate(found, 1)]


def _record(number: int, line: int, values: Any) -> Record:
    if isinstance(values, Mapping):
        return Record(number, named_columns(values), line=line)
    detail = f"a JSON {type(values).__name__}, not an object with columns"
    return Record(number, {}, "undecodable", detail, str(values)[:_SHOWN], line)


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error) if isinstance(error, _RepeatedKeyError) else f"not JSON: {error}"
