"""From the layouts of public prompt sets to one kind of row.

A source is a record in `sources.yaml`: its columns, its licence and how its labels map to our categories. This module
applies such a record to the rows of a file. Rows that cannot be used keep their reason; no row is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drirl_core.config import SourceConfig
from drirl_core.errors import ConfigError, DataError, nearest
from drirl_core.prompts.files import Record, column_names, read_records
from drirl_core.prompts.layouts import Layout, layout_name, load_layouts

_MAPPABLE = ("prompt", "category", "demonstration", "answer", "licence", "id", "style", "twin_of")
_NOT_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class PromptRow:
    """One prompt as a source gives it.

    Args:
        source: name of the source in the configuration.
        row: 1-based row of the file.
        prompt: the text, unchanged; empty when there is none.
        given: the label in the file's own words, empty when there is none.
        category: the harm category of that label, or None when the router has to find it.
        licence: licence of the row.
        reason: why the row cannot be used (a quarantine reason), or empty.
        detail: the reason in words.
        file: name of the file when the source is a folder of several, else empty.
        row_id: the row's own id, empty when it has none.
        style: how the prompt is written (a register, a length, typos), in the source's word; empty when it names none.
    """

    source: str
    row: int
    prompt: str
    given: str
    category: str | None
    licence: str
    reason: str = ""
    detail: str = ""
    file: str = ""
    row_id: str = ""
    style: str = ""

    @property
    def place(self) -> str:
        """Source, file where there are several, and row, for people."""
        return " ".join(filter(None, (self.source, self.file, f"row {self.row}")))


@dataclass(frozen=True)
class SourceRows:
    """What a file of prompts holds.

    Args:
        rows: its unsafe prompts, unusable rows included, in the file's order.
        skipped: rows the source itself marks as safe, or as something other than an unsafe prompt.
        layout: the record it was read by.
    """

    rows: tuple[PromptRow, ...]
    skipped: int
    layout: Layout


def read_source(source: SourceConfig, path: Path, categories: Sequence[str], all_files: bool = False) -> SourceRows:
    """Read the unsafe prompts of one source.

    Args:
        source: its name, adapter, column map, fixed category and licence.
        path: the file. Of a directory the first of the source's usual files is read, or, when it has none of these, all
            its files in the order of their names.
        categories: the harm categories of the run.
        all_files: `path` is a directory of which every file is read; without files, or not there yet, it gives no rows.

    Returns:
        The rows and the number of skipped ones.

    Raises:
        ConfigError: the adapter, a key of the column map or the fixed category is unknown.
        DataError: the file cannot be read, is empty or lacks a column that is needed.
    """
    layout = _layout(source)
    if source.category is not None and source.category not in categories:
        raise ConfigError(
            f"source {source.name}: the run has no category {source.category!r}; {nearest(source.category, categories)}"
        )
    if all_files:
        return _read_files(source, layout, files_of(path), categories)
    if not path.is_dir():
        return _read_file(source, layout, path, categories)
    usual = [path / name for name in layout.files or ("prompts.jsonl",)]
    files = [file for file in usual if file.is_file()][:1] or files_of(path)
    if not files:
        raise DataError(
            f"source {source.name}: the folder {path} holds no files; put at least one file of prompts into it"
        )
    return (
        _read_files(source, layout, files, categories)
        if len(files) > 1
        else _read_file(source, layout, files[0], categories)
    )


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder by name; hidden files and files in folders below it are left out."""
    return sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))


def _read_files(source: SourceConfig, layout: Layout, files: Sequence[Path], categories: Sequence[str]) -> SourceRows:
    parts = [(file.name, _read_file(source, layout, file, categories)) for file in files]
    rows = tuple(replace(row, file=name) for name, part in parts for row in part.rows)
    return SourceRows(rows, sum(part.skipped for _, part in parts), layout)


def _read_file(source: SourceConfig, layout: Layout, path: Path, categories: Sequence[str]) -> SourceRows:
    records = read_records(path)
    columns = _find_columns(source, layout, path, column_names(records))
    reader = _RowReader(source, layout, columns, frozenset(categories))
    used = [record for record in records if not reader.skips(record)]
    return SourceRows(_mark_repeated_ids(reader, used), len(records) - len(used), layout)


def label_key(label: str) -> str:
    """Return a label with case, spaces and punctuation normalised, so that spellings of one label compare equal."""
    return _NOT_LETTERS.sub(" ", label).casefold().strip()


def _layout(source: SourceConfig) -> Layout:
    layouts = load_layouts()
    name = layout_name(source)
    if name not in layouts:
        raise ConfigError(f"source {source.name}: unknown adapter {name!r}; {nearest(name, layouts)}")
    unknown = [key for key in source.columns if key not in _MAPPABLE]
    if unknown:
        raise ConfigError(
            f"source {source.name}: unknown key {unknown[0]!r} in its column map; {nearest(unknown[0], _MAPPABLE)}"
        )
    return layouts[name]


@dataclass(frozen=True)
class _Columns:
    """Columns of the file that are read; empty where there is none."""

    prompt: str
    category: str
    flags: tuple[str, ...]
    licence: str
    id: str
    style: str


def _find_columns(source: SourceConfig, layout: Layout, path: Path, found: Sequence[str]) -> _Columns:
    """Match the column map and the layout's candidates with the columns of the file."""

    def pick(role: str, candidates: Sequence[str], needed: bool) -> str:
        wanted = [source.columns[role]] if role in source.columns else candidates
        match = next((name for name in wanted if name in found), "")
        if not match and wanted and (needed or role in source.columns):
            raise _missing(source, path, role, wanted, found)
        return match

    flags = tuple(name for name in layout.flags if name in found)
    labelled = source.category is not None or layout.category_optional or "category" in source.columns
    if layout.flags and not flags and not labelled:
        raise _missing(source, path, "category", layout.flags, found)
    for name in layout.only:
        if name not in found:
            raise _missing(source, path, name, [name], found)
    return _Columns(
        prompt=pick("prompt", layout.prompt, needed=True),
        category=pick("category", layout.category, needed=not labelled),
        flags=flags,
        licence=pick("licence", layout.licence_column, needed=False),
        id=pick("id", layout.id, needed=False),
        style=pick("style", layout.style, needed=False),
    )


def _missing(source: SourceConfig, path: Path, role: str, wanted: Sequence[str], found: Sequence[str]) -> DataError:
    hint = nearest(wanted[0], found).removesuffix(f"Known: {', '.join(sorted(found))}").strip()
    separated = (
        f" The header looks separated by {mark!r}; save the file with commas."
        if (mark := _other_separator(found))
        else ""
    )
    way = "add it, or read the file with the adapter `columns`"
    if role in _MAPPABLE:
        way = f"map it with `columns: {{{role}: <name of the column>}}`"
    return DataError(
        f"source {source.name} (adapter {source.adapter}): {path} has no column "
        f"{' or '.join(repr(w) for w in wanted)}. Columns found: {', '.join(found) or 'none'}."
        f"{' ' + hint if hint else ''}{separated} In the source's configuration, {way}"
    )


def _other_separator(found: Sequence[str]) -> str:
    return next((mark for mark in (";", "\t", "|") if len(found) == 1 and mark in found[0]), "")


class _RowReader:
    """Turn records into prompt rows by one layout."""

    def __init__(self, source: SourceConfig, layout: Layout, columns: _Columns, categories: Collection[str]) -> None:
        self.source, self.layout, self.columns, self.categories = source, layout, columns, categories
        self.labels = {label_key(label): category for label, category in layout.labels.items()}

    def skips(self, record: Record) -> bool:
        """Tell whether the source itself says that this is no unsafe prompt."""
        values = record.values
        if not values or record.reason:
            return False
        if any(str(values.get(name)) != wanted for name, wanted in self.layout.only.items()):
            return True
        given = [values[name] for name in self.columns.flags if isinstance(values.get(name), Mapping)]
        return bool(given) and not any(flag for flags in given for flag in flags.values())

    def row(self, record: Record) -> PromptRow:
        """Build the row, with the reason when it cannot be used."""
        prompt = record.values.get(self.columns.prompt) if record.values else record.text
        given = self._given(record.values)
        licence = self.source.licence
        if licence == "unknown":
            licence = str(record.values.get(self.columns.licence) or self.layout.licence)
        reason, detail = record.reason, record.detail
        if not reason and not isinstance(prompt, str):
            kind = "empty" if prompt is None else f"a {type(prompt).__name__}, not text"
            reason, detail = "missing_value", f"column {self.columns.prompt!r} is {kind}"
        if not isinstance(prompt, str):
            prompt = "" if prompt is None else str(prompt)
        return PromptRow(
            self.source.name,
            record.row,
            prompt,
            ", ".join(given),
            self._category(given),
            licence,
            reason,
            detail,
            row_id=self._text(record, self.columns.id),
            style=self._text(record, self.columns.style).strip(),
        )

    def _text(self, record: Record, column: str) -> str:
        """Return what an optional column says, or an empty text."""
        value = record.values.get(column) if column else None
        if value is None or value != value:  # NaN means an empty cell
            return ""
        return str(value).encode("utf-8", "backslashreplace").decode("utf-8")

    def _given(self, values: Mapping[str, Any]) -> list[str]:
        """List the labels of a row in the order in which they count."""
        flags = [values[name] for name in self.columns.flags if isinstance(values.get(name), Mapping)]
        true = {str(label) for flag in flags for label, on in flag.items() if on}
        order = {key: position for position, key in enumerate(self.labels)}
        given = sorted(true, key=lambda label: (order.get(label_key(label), len(order)), label))
        plain = [values.get(name) for name in (self.columns.category, *self.columns.flags) if name]
        texts = [str(label).strip() for label in plain if label is not None and not isinstance(label, Mapping)]
        return given + [text for text in texts if text]

    def _category(self, given: Sequence[str]) -> str | None:
        if self.source.category is not None:
            return self.source.category
        for label in given:
            key = label_key(label)
            category = self.labels.get(key, key.replace(" ", "_"))
            if category in self.categories:
                return category
        return None


def _mark_repeated_ids(reader: _RowReader, records: Sequence[Record]) -> tuple[PromptRow, ...]:
    first: dict[str, int] = {}
    rows: list[PromptRow] = []
    for record in records:
        row = reader.row(record)
        if row.row_id and not row.reason and first.setdefault(row.row_id, record.row) != record.row:
            row = replace(row, reason="duplicate_id", detail=f"id {row.row_id!r} is taken by row {first[row.row_id]}")
        rows.append(row)
    return tuple(rows)
