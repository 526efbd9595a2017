"""Rows of a parquet file that somebody else wrote."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drirl_core.errors import DataError
from drirl_core.files.records import Record, is_unnamed


def parquet_records(path: Path, data: bytes) -> list[Record]:
    """Read the rows of a parquet file; a text that is not UTF-8 spoils its own row only.

    Args:
        path: the file, for messages.
        data: its content, unpacked.

    Raises:
        DataError: it is no complete parquet file, or its columns repeat.
    """
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
        names = [name for name in table.column_names if not is_unnamed(name)]
        repeated = [name for name, n in Counter(names).items() if n > 1]
        if repeated:
            raise DataError(f"{path}: column names repeat: {', '.join(repeated)}; rename them")
        broken: dict[int, str] = {}
        columns = {name: _values(table.column(name), name, broken) for name in names}
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read as parquet ({error}); it is truncated or damaged, fetch it or write it again"
        ) from error
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        Record(number, row, "undecodable", f"column {broken[number]!r} is not UTF-8")
        if number in broken
        else Record(number, row)
        for number, row in enumerate(rows, 1)
    ]


def _values(column: pa.ChunkedArray, name: str, broken: dict[int, str]) -> list[Any]:
    """Return the Python values of a column; rows with a text that is not UTF-8 are noted in `broken`."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
    wide = pa.types.is_large_string(column.type)
    found: list[Any] = []
    for number, raw in enumerate(column.cast(pa.large_binary() if wide else pa.binary()).to_pylist(), 1):
        try:
            found.append(None if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError:
            broken.setdefault(number, name)
            found.append(raw.decode("utf-8", "replace"))
    return found
