"""Rows of a jsonl, json, csv or parquet file, where one bad row never makes the others unusable.

A row that cannot be read is returned with the reason instead of being dropped; a file that cannot be read at all is a
`DataError`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl_core.errors import DataError, nearest
from drirl_core.store import tables

_BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Record:
    """One row of a file.

    Args:
        row: 1-based number: the line in a jsonl file, the row below the header in a csv file, the row in the others.
        values: column to value; empty when the row could not be parsed.
        reason: `undecodable` or `missing_value` when the row cannot be used, else empty.
        detail: what is wrong, for people.
        text: what can be shown of a row that could not be parsed.
    """

    row: int
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    text: str = ""


def read_records(path: Path) -> list[Record]:
    """Read all rows of a file whose kind is given by its ending; text files may also end in `.gz`.

    Args:
        path: a UTF-8 file (a byte order mark is accepted).

    Returns:
        One record per row, in the file's order, unreadable rows included.

    Raises:
        DataError: the file is missing, empty, damaged, of an unknown kind or not UTF-8, or no row of it can be read.
    """
    zipped = path.suffix == ".gz"
    kind = Path(path.stem).suffix.lower() if zipped else path.suffix.lower()
    if kind not in FORMATS or (zipped and kind == ".parquet"):
        raise DataError(
            f"{path}: files ending in {kind or 'nothing'!r} are not read; {nearest(kind, FORMATS)} "
            "(text files also with .gz)"
        )
    if kind == ".parquet":
        rows = tables.read_table(path)
        records = [Record(number, row) for number, row in enumerate(rows, 1)]
    else:
        data = _read_bytes(path, zipped)
        if kind in (".csv", ".tsv"):
            records = _csv_records(path, data, "\t" if kind == ".tsv" else ",")
        else:
            records = _json_records(path, data) if kind == ".json" else _jsonl_records(data)
    if not records:
        raise DataError(f"{path} holds no rows; give a file with at least one")
    if all(record.reason for record in records):
        first = records[0]
        raise DataError(
            f"{path}: none of its {len(records)} rows can be read as {kind.removeprefix('.')}; "
            f"row {first.row}: {first.detail}"
        )
    return records


def column_names(records: Sequence[Record]) -> list[str]:
    """Return the names of the columns that occur in any row, in the order met."""
    return list(dict.fromkeys(name for record in records for name in record.values))


def _read_bytes(path: Path, zipped: bool) -> bytes:
    try:
        data = path.read_bytes()
        if zipped:
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); fix the path in the configuration"
        ) from error
    if data.startswith(_UTF16_MARKS):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    data = data.removeprefix(_BOM)
    if not data.strip():
        raise DataError(f"{path} is empty; give a file with at least one row")
    return data


def _jsonl_records(data: bytes) -> list[Record]:
    # Bytes are split on line feeds only: a decoded text would also be cut at characters such as U+2028 inside a value.
    return [_jsonl_record(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]


def _jsonl_record(number: int, line: bytes) -> Record:
    shown = line.decode("utf-8", "replace").strip()
    try:
        text, problem = line.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        text, problem = shown, f"byte {error.start + 1} of the line is not UTF-8"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Record(number, reason="undecodable", detail=problem or f"not JSON: {error}", text=shown)
    if not isinstance(values, dict):
        return Record(
            number,
            reason="undecodable",
            detail=f"a JSON {type(values).__name__}, not an object with columns",
            text=shown,
        )
    return Record(number, values, "undecodable" if problem else "", problem)


def _json_records(path: Path, data: bytes) -> list[Record]:
    """Read a list of objects, or an object of such lists (the layout of Safety-Prompts)."""
    try:
        loaded = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(
            f"{path} is not a UTF-8 JSON file ({error}); save it as UTF-8, or as jsonl to read it line by line"
        ) from error
    rows = (
        [row for part in loaded.values() if isinstance(part, list) for row in part]
        if isinstance(loaded, dict)
        else loaded
    )
    if not isinstance(rows, list):
        raise DataError(
            f"{path} must hold a list of objects, or an object of such lists, not a {type(loaded).__name__}"
        )
    return [
        Record(number, row)
        if isinstance(row, dict)
        else Record(
            number,
            reason="undecodable",
            detail=f"a JSON {type(row).__name__}, not an object with columns",
            text=str(row),
        )
        for number, row in enumerate(rows, 1)
    ]


def _csv_records(path: Path, data: bytes, delimiter: str) -> list[Record]:
    """Read a csv file with a header row; fields may be of any length and hold line feeds inside quotes.

    Bytes pass through the parser as Latin-1, which has a character for each of them. Every field is then decoded
    separately, so that a field in another encoding does not affect the others.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    latin = data.decode("latin-1")
    names = _csv_header(path, latin, delimiter)
    ragged: dict[int, Record] = {}

    def keep(row: arrow_csv.InvalidRow) -> str:
        number = row.number - 1  # below the header
        text = row.text.encode("latin-1").decode("utf-8", "replace")
        detail = (
            f"{row.actual_columns} fields where the header has {row.expected_columns}; "
            f"quote fields that hold {delimiter!r}"
        )
        ragged[number] = Record(number, reason="missing_value", detail=detail, text=text)
        return "skip"

    raw = latin.encode("utf-8")
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(raw),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(raw) + 1, autogenerate_column_names=True
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(len(names))}, null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} cannot be read as csv ({error}); quote fields that hold {delimiter!r}, quotes or line feeds"
        ) from error
    numbers = [n for n in range(1, table.num_rows + len(ragged)) if n not in ragged]
    rows = zip(*(column.to_pylist()[1:] for column in table.columns), strict=True)
    read = [_csv_record(number, dict(zip(names, row, strict=True))) for number, row in zip(numbers, rows, strict=True)]
    return sorted([*read, *ragged.values()], key=lambda record: record.row)


def _csv_header(path: Path, latin: str, delimiter: str) -> list[str]:
    try:
        header = [
            _utf8(name) for name in next(csv.reader(io.StringIO(latin.lstrip("\r\n"), newline=""), delimiter=delimiter))
        ]
    except csv.Error as error:
        raise DataError(
            f"{path} has no header row that can be read as csv ({error}); its first line must name the columns"
        ) from error
    names = [name.strip() if name is not None else f"column {number}" for number, name in enumerate(header, 1)]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: column names repeat: {', '.join(names)}; rename them")
    return names


def _csv_record(number: int, latin: dict[str, str]) -> Record:
    values = {name: _utf8(value) for name, value in latin.items()}
    bad = [name for name, value in values.items() if value is None]
    if not bad:
        return Record(number, values)
    shown = {name: value.encode("latin-1").decode("utf-8", "replace") for name, value in latin.items()}
    return Record(number, shown, "undecodable", f"column {bad[0]!r} is not UTF-8")


def _utf8(latin: str) -> str | None:
    """Decode bytes that were read as Latin-1, or return None when they are not UTF-8."""
    try:
        return latin.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return None
