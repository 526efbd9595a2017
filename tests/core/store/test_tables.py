"""Tables: equal rows give equal bytes, a wrong row or a damaged file gives an error that names it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.store.tables import normalise, prompt_id, read_table, write_table

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False), ("share", pa.float32()), ("count", pa.int32())])
ROWS = [{"name": "née", "share": 0.5, "count": 3}, {"name": "b", "share": None, "count": None}]


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", ROWS, SCHEMA)
    assert read_table(tmp_path / "t.parquet") == ROWS


def test_equal_rows_give_equal_bytes_and_no_library_metadata(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", ROWS, SCHEMA)
    write_table(tmp_path / "b.parquet", [dict(row) for row in ROWS], SCHEMA.with_metadata({"pandas": "{}"}))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.schema_arrow.metadata is None
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [], SCHEMA)
    assert read_table(tmp_path / "t.parquet", ("name", "share")) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "name": st.text(st.characters(exclude_categories=["Cs"])),
                "share": st.none() | st.floats(width=32, allow_nan=False),
                "count": st.none() | st.integers(-(2**31), 2**31 - 1),
            }
        )
    )
)
def test_any_rows_are_read_as_written(tmp_path: Path, rows: list[dict]) -> None:
    write_table(tmp_path / "t.parquet", rows, SCHEMA)
    assert read_table(tmp_path / "t.parquet") == rows


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": 3}, "'name'"),
        ({"name": None}, "1 empty values"),
        ({"name": "\ud800"}, "'name'"),
        ({"share": "much"}, "'share'"),
        ({"count": 2**40}, "'count'"),
        ({"count": 1.5}, "fraction"),
        ({"size": 1}, r"\['size'\] too many"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_column(tmp_path: Path, change: dict, named: str) -> None:
    with pytest.raises(DataError, match=named):
        write_table(tmp_path / "t.parquet", [{**ROWS[0], **change}], SCHEMA)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 lacks \['share'\]"):
        write_table(tmp_path / "t.parquet", [ROWS[0], {"name": "b", "count": 1}], SCHEMA)
    write_table(tmp_path / "t.parquet", ROWS, SCHEMA)
    with pytest.raises(DataError, match=r"no column 'shares'; did you mean 'share'\?"):
        read_table(tmp_path / "t.parquet", ("name", "shares"))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "overwritten", "text"])
def test_damaged_files_are_data_errors(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, ROWS, SCHEMA)
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        overwritten = good[:8] + b"\xff" * 60 + good[68:]
        path.write_bytes(
            {"empty": b"", "truncated": good[: len(good) // 2], "overwritten": overwritten, "text": b"a,b\n" * 20}[
                damage
            ]
        )
    with pytest.raises(DataError, match=r"t\.parquet"):
        read_table(path)


def test_prompt_id_ignores_spacing_and_unicode_form_only() -> None:
    assert normalise("  Cafe\u0301 \n\t now ") == "Caf\u00e9 now"
    assert prompt_id("Cafe\u0301  now ") == prompt_id("Caf\u00e9 now")
    assert prompt_id("Caf\u00e9 now") != prompt_id("caf\u00e9 now")
    assert len(prompt_id("x")) == 16
    # printf 'hello world' | sha256sum
    assert prompt_id(" hello  world") == "b94d27b9934d3e08"
