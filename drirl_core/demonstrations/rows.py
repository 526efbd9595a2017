"""Rows of the files this stage reads: demonstrations, harmless prompts with answers, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drirl_core.config import EMBEDDED, SourceConfig
from drirl_core.demonstrations.validate import Failure, check_text
from drirl_core.errors import ConfigError, DataError, nearest
from drirl_core.files.chat import COLUMNS as CHATS
from drirl_core.files.chat import Role, chat_column, text_of
from drirl_core.files.records import Record
from drirl_core.files.values import UnreadableError, is_absent, label
from drirl_core.prompts.flags import plain_labels
from drirl_core.prompts.losses import Loss, SourceLosses, losses_by_source
from drirl_core.text.readable import unreadable

_LONGEST_SHOWN = 500
_ROLES: Mapping[str, Role] = {
    "prompt": "user", "demonstration": "assistant", "answer": "assistant", "refusal": "assistant",
}  # fmt: skip
"""Our columns that may be in chat format, and whose turn each of them takes."""


@dataclass(frozen=True)
class Row:
    """One row of a file, by our column names.

    Args:
        place: file and row, for a person.
        values: our column to value; "" means that an optional value is absent.
        failure: why the row cannot be used, or None.
    """

    place: str
    values: Mapping[str, str]
    failure: Failure | None


def read_columns(source: SourceConfig, path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """Read the named columns of a file; a column in chat format gives the turn that is meant.

    Args:
        source: its name and its column map (ours -> theirs); a column that is not mapped has our name, or is a chat.
        path: the file.
        needed: columns every row must fill with text.
        optional: columns a row may leave empty.

    Returns:
        All rows in the file's order, unusable ones included with the reason.

    Raises:
        ConfigError: the column map names a column this file is not read for, or the adapter is not `columns`.
        DataError: the file cannot be read, is empty or lacks a needed or mapped column.
    """
    from drirl_core.files.reading import read_records
    from drirl_core.files.records import column_names

    ours = (*needed, *optional)
    if source.adapter != "columns":
        raise ConfigError(
            f"source {source.name}: adapter {source.adapter!r} reads prompts only; "
            f"use `columns` with a column map for {', '.join(ours)}"
        )
    for name in source.columns:
        if name not in (*ours, "licence", "category"):
            raise ConfigError(f"source {source.name}: unknown key {name!r} in its column map; {nearest(name, ours)}")
    records = read_records(path)
    found = column_names(records)
    columns = _columns(source, found, ours)
    for name in ours:
        if columns[name].name not in found and (name in needed or name in source.columns):
            chat = f", or give a file in chat format with a column `{CHATS[0]}`" if name in _ROLES else ""
            raise DataError(
                f"source {source.name}: {path} has no column {columns[name].name!r} for {name}. Columns found: "
                f"{', '.join(found) or 'none'}. Map it with `columns: {{{name}: <name of the column>}}`{chat}"
            )
    return [_row(f"{path.name}, row {record.row}", record, columns, needed) for record in records]


def read_dropped(source: SourceConfig, folder: Path) -> list[Row]:
    """Read the rows of a drop folder's files that have a demonstration.

    Files without that column and rows that leave it empty are prompts alone; rows whose prompt cannot be read are in
    the quarantine of the prompt pool. None of them is returned.

    Args:
        source: the drop folder's adapter, column map and fixed category; only the adapter `columns` knows
            demonstrations.
        folder: its accepted files; it may be missing.

    Returns:
        The rows by the name of their file, unusable demonstrations included with the reason.

    Raises:
        DataError: a file cannot be read.
    """
    from drirl_core.files.reading import read_records
    from drirl_core.files.records import column_names
    from drirl_core.prompts.adapters import files_of

    if source.adapter != "columns":
        return []
    rows = []
    ours = ("prompt", "demonstration", "category")
    for file in files_of(folder):
        records = read_records(file)
        columns = _columns(source, column_names(records), ours)
        for record in records:
            if record.reason or not _brings_demonstration(record, columns["demonstration"].name):
                continue
            prompt = _prompt(record, columns["prompt"])
            if isinstance(prompt, str) and prompt.strip():
                row = _row(f"{file.name}, row {record.row}", record, columns, ours[:2])
                rows.append(replace(row, values={**row.values, "category": source.category or row.values["category"]}))
    return rows


def losses_of(source: SourceConfig, rows: Sequence[Row], failures: Sequence[Failure | None]) -> list[SourceLosses]:
    """Return what a file of the user lost.

    Args:
        source: the file.
        rows: N rows of it.
        failures: why each of them is not used, or None.

    Returns:
        One item, or none where nothing is lost; shipped data lose what they are known to lose.
    """
    if source.path == EMBEDDED:
        return []
    lost = [
        Loss(source.name, failure.reason, "" if failure.detail.startswith(row.place) else row.place, failure.detail)
        for row, failure in zip(rows, failures, strict=True)
        if failure
    ]
    kept = {source.name: len(rows) - len(lost)}
    return [loss for loss in losses_by_source(kept, lost).values() if loss.lost]


@dataclass(frozen=True)
class _Column:
    """The column of a file for one of ours; `chat`: it was taken for its name alone, so that it must hold chats."""

    name: str
    chat: bool = False


def _columns(source: SourceConfig, found: Sequence[str], ours: Sequence[str]) -> dict[str, _Column]:
    """Return the column for each of ours; for those that may be in chat format, also a column for that."""
    columns = {name: _Column(source.columns.get(name, name)) for name in ours}
    chat = chat_column(found)
    without = [name for name in ours if name in _ROLES and name not in source.columns and name not in found]
    return columns | (dict.fromkeys(without, _Column(chat, chat=True)) if chat else {})


def _brings_demonstration(record: Record, column: str) -> bool:
    """Say whether a row holds anything in the column of demonstrations; a chat without an answer is a prompt alone."""
    try:
        return not is_absent(text_of(record.values.get(column), "assistant"))
    except UnreadableError:
        return False


def _prompt(record: Record, column: _Column) -> Any:
    """Return the prompt of a row, or what stands there in its place; None for a chat without one."""
    try:
        return text_of(record.values.get(column.name), "user", needed=column.chat)
    except UnreadableError:
        return None


def _row(place: str, record: Record, columns: Mapping[str, _Column], needed: Sequence[str]) -> Row:
    raw = {name: record.values.get(column.name) for name, column in columns.items()}
    if record.reason:
        values = {name: _shown(value) for name, value in raw.items()}
        values[needed[0]] = values[needed[0]] or _shown(record.text)
        return Row(place, values, Failure(record.reason, f"{place}: {record.told}"))
    values, broken = {}, None
    for name, value in raw.items():
        try:
            values[name] = _meant(name, value, columns[name].chat)
            failure = check_text(values[name], name) if name in needed else _check_optional(values[name], name)
        except UnreadableError as error:
            values[name], failure = value, Failure("missing_value", f"{name} is {error}")
        broken = broken or failure
    if broken:
        shown = {name: _shown(value) for name, value in values.items()}
        return Row(place, shown, Failure(broken.reason, f"{place}: {broken.detail}"))
    return Row(place, {name: "" if value is None else str(value) for name, value in values.items()}, None)


def _meant(name: str, value: Any, chat: bool) -> Any:
    """Return what a value says in one of our columns.

    Raises:
        UnreadableError: it cannot be read so.
    """
    if name in _ROLES:
        return text_of(value, _ROLES[name], needed=chat)
    return next(iter(plain_labels(value)), "") if name == "category" else label(value)


def _check_optional(value: object, name: str) -> Failure | None:
    """Say why an optional value cannot be kept in a table, or None."""
    problem = unreadable(str(value)) if value is not None else ""
    return Failure("undecodable", f"{name} holds {problem}; save the file as UTF-8") if problem else None


def _shown(value: object) -> str:
    """Return a text that a table can hold, whatever the value."""
    text = "" if value is None else str(value)
    return text[:_LONGEST_SHOWN].encode("utf-8", "replace").decode()
