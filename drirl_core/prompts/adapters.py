"""From the layouts of public prompt sets to one kind of row.

A source is a record in `sources.yaml`: its columns, its licence and how its labels map to our categories. This module
applies such a record to the rows of a file. Rows that cannot be used keep their reason; no row is dropped silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drirl_core.config import SourceConfig
from drirl_core.errors import ConfigError, DataError, nearest
from drirl_core.files.chat import chat_column, text_of
from drirl_core.files.reading import find_file, read_records
from drirl_core.files.records import Record, column_names
from drirl_core.files.values import UnreadableError, is_absent, label, matches, shown
from drirl_core.prompts.flags import FlagReader, Marks, label_key, plain_labels
from drirl_core.prompts.layouts import CHAT_LAYOUTS, Layout, layout_name, load_layouts

_MAPPABLE = ("prompt", "category", "demonstration", "answer", "licence", "id", "style", "twin_of", "safe")


@dataclass(frozen=True, slots=True)
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
    own = path / "prompts.jsonl"
    usual = [find_file(path, name) for name in layout.files] or [own if own.is_file() else None]
    files = [file for file in usual if file][:1] or files_of(path)
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
    reader = _RowReader(source, layout, columns, categories)
    marks = [reader.marks(record) for record in records]
    used = [(record, mark) for record, mark in zip(records, marks, strict=True) if not mark.safe]
    rows = _mark_repeated_ids([reader.row(record, mark) for record, mark in used])
    _require_text(source, path, columns, [record for record, _ in used], rows)
    return SourceRows(rows, len(records) - len(used), layout)


def _require_text(
    source: SourceConfig, path: Path, columns: _Columns, records: Sequence[Record], rows: Sequence[PromptRow]
) -> None:
    """Refuse a file whose column of prompts holds something else than text in every row."""
    readable, column = [record for record in records if not record.reason], columns.prompt
    if not readable or any(isinstance(_prompt(record, columns), str) for record in readable):
        return
    first = next(row for row, record in zip(rows, records, strict=True) if not record.reason)
    raise DataError(
        f"source {source.name}: {path} holds no text in column {column!r}; row {first.row}: "
        f"{first.detail or f'column {column!r} is no text'}. Convert the column to text, or map another one with "
        "`columns: {prompt: <name of the column>}`"
    )


def _prompt(record: Record, columns: _Columns) -> Any:
    """Return the prompt of a row as text, or what stands there in its place."""
    try:
        return text_of(record.values.get(columns.prompt), "user", needed=columns.chat)
    except UnreadableError:
        return None


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
    """Columns of the file that are read; empty where there is none. `chat`: that of prompts must hold chats."""

    prompt: str
    chat: bool
    category: str
    flags: tuple[str, ...]
    safe: tuple[str, ...]
    licence: str
    id: str
    style: str


def _find_columns(source: SourceConfig, layout: Layout, path: Path, found: Sequence[str]) -> _Columns:
    """Match the column map and the layout's candidates with the columns of the file."""

    def pick(role: str, candidates: Sequence[str], needed: bool) -> str:
        wanted = [source.columns[role]] if role in source.columns else candidates
        if role == "prompt" and role not in source.columns and layout.name in CHAT_LAYOUTS:
            wanted = [*wanted, *filter(None, [chat_column(found)])]
        match = next((name for name in wanted if name in found), "")
        if not match and wanted and (needed or role in source.columns):
            raise _missing(source, path, role, wanted, found)
        return match

    labelled = source.category is not None or layout.category_optional or "category" in source.columns
    flags = tuple(name for name in layout.flags if name in found)
    if layout.flags and not flags and "category" in source.columns:
        flags = (pick("category", (), needed=True),)  # the flags under another name
    if layout.flags and not flags and not labelled:
        raise _missing(source, path, "category", layout.flags, found)
    for name in layout.only:
        if name not in found:
            raise _missing(source, path, name, [name], found)
    category = pick("category", layout.category, needed=not labelled)
    mapped_safe = filter(None, [pick("safe", (), needed=False)])
    prompt = pick("prompt", layout.prompt, needed=True)
    return _Columns(
        prompt=prompt,
        chat="prompt" not in source.columns and prompt not in layout.prompt,  # taken for its name alone
        category="" if category in flags else category,
        flags=flags,
        safe=tuple(mapped_safe) or tuple(name for name in layout.safe if name in found),
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

    def __init__(self, source: SourceConfig, layout: Layout, columns: _Columns, categories: Sequence[str]) -> None:
        self.source, self.layout, self.columns, self.categories = source, layout, columns, frozenset(categories)
        self.labels = {label_key(name): category for name, category in layout.labels.items()}
        known = {*self.labels, *map(label_key, categories)}
        self._flags = FlagReader(columns.flags, columns.safe, known, layout.order)

    def marks(self, record: Record) -> Marks:
        """Return what the source says of a row: whether it is an unsafe prompt at all, and of which kinds."""
        if not record.values or record.reason:
            return Marks()
        for name, wanted in self.layout.only.items():
            try:
                if not matches(record.values.get(name), [wanted]):
                    return Marks(safe=True)
            except UnreadableError as error:
                return Marks(reason="missing_value", detail=f"column {name!r} is {error}")
        return self._flags.marks(record.values)

    def row(self, record: Record, marks: Marks) -> PromptRow:
        """Build the row, with the reason when it cannot be used."""
        prompt, problem = self._prompt(record)
        given, strange = self._given(record, marks)
        licence = self.source.licence
        if licence == "unknown":
            licence = self._text(record, self.columns.licence) or self.layout.licence
        problems = ((record.reason, record.told), problem, (marks.reason, marks.detail), strange)
        reason, detail = next(((why, what) for why, what in problems if why), ("", ""))
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
            style=self._text(record, self.columns.style),
        )

    def _prompt(self, record: Record) -> tuple[str, tuple[str, str]]:
        """Return the prompt as far as it can be shown, and what is wrong with it."""
        if not record.values:
            return record.text, ("", "")
        value, column = record.values.get(self.columns.prompt), self.columns.prompt
        try:
            text = text_of(value, "user", needed=self.columns.chat)
        except UnreadableError as error:
            return str(value), ("missing_value", f"column {column!r} is {error}")
        if isinstance(text, str):
            return text, ("", "")
        if is_absent(text):
            return "", ("missing_value", f"column {column!r} is empty")
        return str(text), ("missing_value", f"column {column!r} is {shown(text)}; a text is needed")

    def _text(self, record: Record, column: str) -> str:
        """Return what an optional column says, or an empty text."""
        value = record.values.get(column) if column else None
        try:
            text = label(value)
        except UnreadableError:
            text = str(value)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def _given(self, record: Record, marks: Marks) -> tuple[list[str], tuple[str, str]]:
        """List the labels of a row in the order in which they count, and say what is wrong with its column."""
        order = {key: position for position, key in enumerate(self.labels)}
        given = sorted(marks.labels, key=lambda name: (order.get(label_key(name), len(order)), name))
        column = self.columns.category
        try:
            return given + (plain_labels(record.values.get(column)) if column else []), ("", "")
        except UnreadableError as error:
            return given, ("unknown_category", f"column {column!r} is {error}")

    def _category(self, given: Sequence[str]) -> str | None:
        if self.source.category is not None:
            return self.source.category
        for name in given:
            key = label_key(name)
            category = self.labels.get(key, key.replace(" ", "_"))
            if category in self.categories:
                return category
        return None


def _mark_repeated_ids(read: Sequence[PromptRow]) -> tuple[PromptRow, ...]:
    first: dict[str, int] = {}
    rows: list[PromptRow] = []
    for row in read:
        if row.row_id and not row.reason and first.setdefault(row.row_id, row.row) != row.row:
            row = replace(row, reason="duplicate_id", detail=f"id {row.row_id!r} is taken by row {first[row.row_id]}")
        rows.append(row)
    return tuple(rows)
