"""Rows of the files this stage reads: demonstrations, harmless prompts with answers, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drirl_core.config import SourceConfig
from drirl_core.demonstrations.chat import COLUMNS, column_of, spoken
from drirl_core.demonstrations.validate import Failure, check_text
from drirl_core.errors import ConfigError, DataError, nearest

_LONGEST_SHOWN = 500


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
    """Read the named columns of a jsonl, json, csv or parquet file, or of a chat file (see `chat`).

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
    from drirl_core.prompts.files import column_names, read_records

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
    for name in ours:
        theirs = column_of(name, source.columns, found)
        if theirs not in found and (name in needed or name in source.columns):
            raise DataError(
                f"source {source.name}: {path} has no column {theirs!r} for {name}. "
                f"Columns found: {', '.join(found) or 'none'}. Map it with `columns: {{{name}: <name of the column>}}` "
                f"or give a chat file with a column `{COLUMNS[0]}`"
            )
    return [_row(f"{path.name}, row {record.row}", record, source, needed, optional) for record in records]


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
    from drirl_core.prompts.adapters import files_of
    from drirl_core.prompts.files import read_records

    if source.adapter != "columns":
        return []
    rows = []
    for file in files_of(folder):
        for record in read_records(file):
            prompt, demonstration = (_value(record, source, name) for name in ("prompt", "demonstration"))
            blank = demonstration is None or demonstration != demonstration or not str(demonstration).strip()  # NaN too
            if not record.reason and not blank and isinstance(prompt, str) and prompt.strip():
                row = _row(f"{file.name}, row {record.row}", record, source, ("prompt", "demonstration"), ("category",))
                rows.append(replace(row, values={**row.values, "category": source.category or row.values["category"]}))
    return rows


def _row(place: str, record: Any, source: SourceConfig, needed: Sequence[str], optional: Sequence[str]) -> Row:
    raw = {name: _value(record, source, name) for name in (*needed, *optional)}
    values = {
        name: _shown(value) if record.reason else str(value) if isinstance(value, str | int) else ""
        for name, value in raw.items()
    }
    if record.reason:
        values[needed[0]] = values[needed[0]] or _shown(record.text)
        return Row(place, values, Failure(record.reason, f"{place}: {record.detail}"))
    for name in needed:
        broken = raw[name] if isinstance(raw[name], Failure) else check_text(raw[name], name)
        if broken:
            shown = {key: _shown(value) for key, value in raw.items()}
            return Row(place, shown, Failure(broken.reason, f"{place}: {broken.detail}"))
    return Row(place, values, None)


def _value(record: Any, source: SourceConfig, name: str) -> Any:
    """Return what a row holds for one of our columns, or the failure of a chat that does not say it."""
    column = column_of(name, source.columns, record.values)
    by_name = name not in source.columns and column != name
    return spoken(record.values.get(column), name, column, by_name=by_name)


def _shown(value: object) -> str:
    """Return a text that a table can hold, whatever the value."""
    text = "" if value is None or isinstance(value, Failure) else str(value)
    return text[:_LONGEST_SHOWN].encode("utf-8", "replace").decode()
