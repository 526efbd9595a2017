"""Rows of a jsonl, json, csv, tsv or parquet file, where one bad row never makes the others unusable.

A row that cannot be read is returned with the reason instead of being dropped; a file that cannot be read at all, or
whose rows cannot be told apart, is a `DataError`. No other code reads rows of files that users give.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from drirl_core.errors import DataError, nearest
from drirl_core.files.csv_rows import csv_records
from drirl_core.files.json_rows import json_records, jsonl_records
from drirl_core.files.records import Record, without_nul

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BOM = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_STRANGERS = (
    (_GZIP, "gzipped; let its name end in .gz"),
    (_PARQUET, "a parquet file; let its name end in .parquet"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it, or save it as csv in UTF-8"),
    (b"version https://git-lfs.", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
    (b"<!doctype html", "a web page; download the file itself"),
    (b"<html", "a web page; download the file itself"),
)
"""How files begin that are something else than their name says, and what to do."""


def read_records(path: Path) -> list[Record]:
    """Read all rows of a file whose kind is given by its ending, in any case; each kind may also end in `.gz`.

    Args:
        path: a file; text is UTF-8 (a byte order mark is accepted).

    Returns:
        One record per row, in the file's order, unreadable rows included. Columns without a heading are left out.

    Raises:
        DataError: the file is missing, empty, damaged, of an unknown kind or not UTF-8, its columns repeat, a quote in
            it never closes, or no row of it can be read.
    """
    kind = file_kind(path)
    data = _content(path)
    _refuse_strangers(path, data, kind)
    if kind == ".parquet":
        records = _parquet(path, data)
    else:
        data = _text_bytes(path, data)
        if kind in (".csv", ".tsv"):
            records = csv_records(path, data, "\t" if kind == ".tsv" else ",")
        else:
            records = json_records(path, data) if kind == ".json" else jsonl_records(data)
    records = [without_nul(record) for record in records]
    if not records:
        raise DataError(f"{path} holds no rows; give a file with at least one")
    if all(record.reason for record in records):
        first = records[0]
        raise DataError(
            f"{path}: none of its {len(records)} rows can be read as {kind.removeprefix('.')}; "
            f"{first.place}: {first.detail}"
        )
    return records


def read_strictly(path: Path) -> list[Record]:
    """Read a file of which no row may be lost.

    Args:
        path: as for `read_records`.

    Raises:
        DataError: as `read_records`, and when any row cannot be read; the message names its line.
    """
    records = read_records(path)
    bad = next((record for record in records if record.reason), None)
    if bad:
        raise DataError(f"{path}, {bad.place}: {bad.detail}; fix the row or remove it from the file")
    return records


def file_kind(path: Path) -> str:
    """Return the ending that says how a file is read, in lower case and without `.gz`.

    Raises:
        DataError: files with this ending are not read.
    """
    kind = Path(path.stem).suffix.lower() if is_zipped(path) else path.suffix.lower()
    if kind not in FORMATS:
        raise DataError(
            f"{path}: files ending in {kind or 'nothing'!r} are not read; {nearest(kind, FORMATS)} (each also with .gz)"
        )
    return kind


def is_zipped(path: Path) -> bool:
    """Say whether the name of a file says that it is gzipped."""
    return path.suffix.lower() == ".gz"


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file by name in a folder; an ending in another case and a gzipped copy are found too.

    Args:
        folder: where to look; it may be missing.
        name: the name to look for.

    Returns:
        The file of exactly this name where there is one, else the first one that is like it, or None.
    """
    if (folder / name).is_file():
        return folder / name
    like = (name.lower(), f"{name.lower()}.gz")
    found = [file for file in folder.glob("*") if file.name.lower() in like and file.is_file()]
    return min(found, key=lambda file: (like.index(file.name.lower()), file.name), default=None)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); fix the path in the configuration"
        ) from error
    if not is_zipped(path):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); fetch it again") from error


def _refuse_strangers(path: Path, data: bytes, kind: str) -> None:
    """Refuse a file that is something else than its name says."""
    start = data[:1000].removeprefix(_BOM).lstrip().lower()
    what = next((what for sign, what in _STRANGERS if start.startswith(sign.lower())), "")
    if what and not (kind == ".parquet" and data.startswith(_PARQUET)):
        raise DataError(f"{path} is {what}")


def _text_bytes(path: Path, data: bytes) -> bytes:
    """Return the content of a text file without byte order marks, once it is clear that it is one."""
    if data.startswith(_UTF16_MARKS):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    while data.startswith(_BOM):
        data = data.removeprefix(_BOM)
    if not data.strip():
        raise DataError(f"{path} is empty; give a file with at least one row")
    start = data[:1000]
    if start.count(b"\0") > len(start) // 5:  # Latin letters in UTF-16 are half NUL bytes
        raise DataError(f"{path} holds NUL bytes: it is UTF-16 without its mark, or no text; save it as UTF-8")
    return data


def _parquet(path: Path, data: bytes) -> list[Record]:
    from drirl_core.files.parquet_rows import parquet_records  # brings pyarrow

    return parquet_records(path, data)
