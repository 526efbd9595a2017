"""Tables on disk: parquet whose bytes depend on the rows alone, and errors that name the file and the problem.

Artifacts are identified by the hash of their files, so equal rows must give equal bytes: the writer's settings are
fixed here and no library metadata enters the file. Every stage reads and writes its tables through these functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from drirl_core.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd

_ROW_GROUP = 65536
_FORMAT: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6", "data_page_version": "1.0"}
_CONVERSION_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)  # UnicodeEncodeError is a ValueError


def normalise(prompt: str) -> str:
    """Return the prompt in Unicode form NFC with each run of white space replaced by a blank and the ends stripped."""
    return " ".join(unicodedata.normalize("NFC", prompt).split())


def prompt_id(prompt: str) -> str:
    """Return sixteen hexadecimal digits that identify a prompt independently of its spacing and Unicode form."""
    return hashlib.sha256(normalise(prompt).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def first_by_hash(names: Iterable[str], count: int) -> list[str]:
    """Choose `count` names by their hash, so that one more name moves one at most; all where there are fewer."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows to a parquet file, in the order given; equal rows and schema give equal bytes.

    Args:
        path: the file to make; its directory exists.
        rows: N dicts with exactly the columns of `schema`; None is a null.
        schema: names and types of the columns; fields declared `nullable=False` refuse None.

    Raises:
        DataError: a row lacks a column or has an unknown one, a value does not fit its column's type, or the file
            cannot be written.
    """
    names = schema.names
    wanted = set(names)
    for number, row in enumerate(rows):
        if row.keys() != wanted:
            lacking, extra = [n for n in names if n not in row], sorted(set(row) - wanted)
            raise DataError(
                f"{path.name}: row {number} lacks {lacking} and has {extra} too many; "
                f"the columns are {', '.join(names)}"
            )
    columns = [_column(path, field, [row[field.name] for row in rows]) for field in schema]
    table = pa.Table.from_arrays(columns, schema=schema.remove_metadata())
    try:
        pq.write_table(table, path, row_group_size=_ROW_GROUP, **_FORMAT)
    except OSError as error:
        raise DataError(
            f"table {path} cannot be written ({error}); free some space or fix the permissions of {path.parent}"
        ) from error


def read_table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read a parquet file as a list of dicts, one per row, in the file's order.

    Args:
        path: the file.
        columns: columns the caller needs; all columns are returned anyway.

    Returns:
        N dicts from column name to Python value (None for null).

    Raises:
        DataError: the file is missing, is not parquet, is truncated or damaged, or lacks a needed column.
    """
    with _errors_named(path, "parquet"):
        table = _arrow(path)
        rows = table.to_pylist()
    for name in columns:
        if name not in table.column_names:
            raise DataError(f"table {path} has no column {name!r}; {nearest(name, table.column_names)}")
    return rows


def read_frame(path: Path) -> pd.DataFrame:
    """Read a parquet file as a pandas DataFrame, in the file's order.

    Args:
        path: the file.

    Returns:
        N rows; a column of integers with nulls becomes floats, as usual in pandas.

    Raises:
        DataError: the file is missing, is not parquet, is truncated or damaged.
    """
    with _errors_named(path, "parquet"):
        return _arrow(path).to_pandas()


def read_frame_of_lines(path: Path) -> pd.DataFrame:
    """Read a file of JSON lines as a pandas DataFrame, in the file's order.

    Args:
        path: the file.

    Returns:
        N rows; the columns are the keys of all lines, and a key that a line lacks is NaN.

    Raises:
        DataError: the file is missing, or a line is no JSON object.
    """
    import pandas as pd

    with _errors_named(path, "JSON lines"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not an object")
    return pd.DataFrame(rows)


def _arrow(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pq.read_table(file, use_threads=False)


@contextlib.contextmanager
def _errors_named(path: Path, form: str) -> Iterator[None]:
    """Turn problems with a file into an error that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"table {path} does not exist; materialize the asset that writes it") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise DataError(
            f"table {path} cannot be read as {form} ({error}); it is truncated or damaged, write it again"
        ) from error


def _column(path: Path, field: pa.Field, values: list[Any]) -> pa.Array:
    """Convert one column; errors name it."""
    try:
        if pa.types.is_integer(field.type) and any(value is not None and value != int(value) for value in values):
            raise ValueError("a fraction would be cut off")  # arrow would truncate silently
        column = pa.array(values, field.type)
    except _CONVERSION_ERRORS as error:
        raise DataError(f"{path.name}: column {field.name!r} must hold {field.type} values ({error})") from error
    if not field.nullable and column.null_count:
        raise DataError(
            f"{path.name}: column {field.name!r} has {column.null_count} empty values; fill them or drop the rows"
        )
    return column
