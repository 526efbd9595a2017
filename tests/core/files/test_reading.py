"""Reading files: every row is returned, used or with its reason, for any bytes and any of the formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.files.reading import find_file, read_records, read_strictly
from drirl_core.files.records import column_names
from drirl_core.store.tables import write_table

ROWS = [{"prompt": "one", "type": "Insult"}, {"prompt": "two", "type": "Insult"}]


def make(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def written(name: str, rows: list[dict[str, str]]) -> bytes:
    """Return a file of rows in the format that its name says."""
    kind = name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        data = buffer.getvalue().to_pybytes()
    elif kind == "json":
        data = json.dumps(rows).encode()
    elif kind in ("jsonl", "ndjson"):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        mark = "\t" if kind == "tsv" else ","
        data = "\n".join(mark.join(line) for line in [rows[0].keys(), *(row.values() for row in rows)]).encode()
    return gzip.compress(data, mtime=0) if name.lower().endswith(".gz") else data


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("name", ["p.{}", "P.{}.gz", "p.up.{}", "p.{}.GZ"])
def test_every_format_is_read_in_any_case_and_gzipped(tmp_path: Path, kind: str, name: str) -> None:
    for ending in (kind, kind.upper()):
        path = tmp_path / name.format(ending)
        path.write_bytes(written(path.name, ROWS))
        assert [record.values for record in read_records(path)] == ROWS, path.name
        assert [record.values for record in read_strictly(path)] == ROWS


def test_jsonl_rows_carry_their_line_and_bad_lines_their_reason(tmp_path: Path) -> None:
    lines = [
        b'{"prompt": "one"}',
        b"",
        b'{"prompt": "caf\xe9"}',
        b"{not json",
        b'["a list"]',
        b'{"prompt": "two\xe2\x80\xa8lines"}',
    ]
    path = make(tmp_path, "p.jsonl", b"\n".join(lines))
    records = read_records(path)
    assert [(r.row, r.reason) for r in records] == [
        (1, ""),
        (3, "undecodable"),
        (4, "undecodable"),
        (5, "undecodable"),
        (6, ""),
    ]
    assert records[1].values == {"prompt": "caf\ufffd"}
    assert "byte 16" in records[1].detail
    assert records[2].text == "{not json"
    assert records[4].values["prompt"] == "two\u2028lines"
    with pytest.raises(DataError, match=r"p\.jsonl, line 3: byte 16 of the line is not UTF-8"):
        read_strictly(path)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    jsonl = read_records(make(tmp_path, "p.jsonl", b'\xef\xbb\xbf{"prompt": "one"}\r\n{"prompt": "two"}\r\n'))
    csv = read_records(make(tmp_path, "p.csv", b'\xef\xbb\xbf\xef\xbb\xbf"prompt",category\r\none,a\r\ntwo,b\r\n'))
    joined = read_records(make(tmp_path, "q.jsonl", b'{"prompt": "one"}\n\xef\xbb\xbf{"prompt": "two"}\n'))
    for records in (jsonl, csv, joined):
        assert [r.values["prompt"] for r in records] == ["one", "two"]
    assert column_names(csv) == ["prompt", "category"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.csv", b",prompt,type,\n0,one,Insult,\n1,two,Insult,ask first\n"),
        ("p.csv", b"Unnamed: 0,prompt,type,Unnamed: 0.1, \n0,one,Insult,5,x\n1,two,Insult,6,\n"),
        ("p.tsv", b'""\tprompt\ttype\n"1"\tone\tInsult\n"2"\ttwo\tInsult\n'),
        ("p.json", json.dumps([{"": n, "Unnamed: 0": n, **row} for n, row in enumerate(ROWS)]).encode()),
        ("p.jsonl", "\n".join(json.dumps({**row, "": n, "\ufeff ": n}) for n, row in enumerate(ROWS)).encode()),
    ],
)
def test_a_column_without_a_heading_is_no_column(tmp_path: Path, name: str, data: bytes) -> None:
    records = read_records(make(tmp_path, name, data))
    assert [{key: record.values[key] for key in ("prompt", "type")} for record in records] == ROWS
    assert [key for key in column_names(records) if not key.strip("\ufeff ")] == []
    assert column_names(records) == ["prompt", "type"]


def test_the_index_that_pandas_puts_into_parquet_is_no_column(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["one"], "": [3], "__index_level_0__": [7]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert [record.values for record in read_records(tmp_path / "p.parquet")] == [{"prompt": "one"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.csv", b"prompt,a,a\nx,1,2\n"),
        ("p.tsv", b"prompt\t a\ta\nx\t1\t2\n"),
        ("p.jsonl", b'{"prompt": "x", "prompt": "y"}\n'),
        ("p.json", b'[{"prompt": "x", "prompt": "y"}]\n'),
    ],
)
def test_headings_that_repeat_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(DataError, match=r"column names repeat|the key 'prompt' stands twice"):
        read_records(make(tmp_path, name, data))


def test_parquet_columns_that_repeat_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="column names repeat: a"):
        read_records(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", b"", "is empty"),
        ("p.csv", b"\xef\xbb\xbf \n\n", "is empty"),
        ("p.csv", b"prompt,category\n", "holds no rows"),
        ("p.json", b"[]", "holds no rows"),
        ("p.jsonl", b"[]", "holds no rows"),
        ("p.json", b'[\n"caf\xe9"]', "line 2: not UTF-8; save it as UTF-8"),
        ("p.json", b"3", "must hold a list"),
        ("p.json", b'{"prompt": {"0": "x"}, "category": {"0": "y"}}', "holds columns or groups"),
        ("p.jsonl", b"prompt,category\nhello,insult\n", "none of its 2 rows can be read as jsonl"),
        ("p.jsonl", "é".encode("utf-16"), "UTF-16"),
        ("p.csv", "prompt,category\none,insult\n".encode("utf-16-le"), "NUL bytes: it is UTF-16"),
        ("p.csv", b",Unnamed: 1\n1,2\n", "line 1: no column has a name"),
        ("p.csv", b"x" * 200_000, "first line must name the columns"),
        ("p.csv", b'"a\nb', "line 1: the quote that opens here never closes"),
        ("p.csv", b'"a"b,c\n1,2\n', "line 1: no header row that can be read as csv"),
        ("p.xlsx", b"PK", r"'\.xlsx' are not read"),
        ("p.txt", b"x", r"'\.txt' are not read"),
        ("p.csv", b"PK\x03\x04rest", "a zip archive or a spreadsheet"),
        ("p.csv", gzip.compress(b"prompt\nx\n", mtime=0), r"is gzipped; let its name end in \.gz"),
        ("p.csv", b"PAR1rest", "is a parquet file"),
        ("p.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("p.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("p.jsonl", b"<!DOCTYPE html>\n<html></html>", "is a web page"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "x"}', mtime=0)[:-6], "not a complete gzip file"),
        ("p.parquet", b"PAR1", "damaged"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_records(make(tmp_path, name, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("gone.jsonl", "gone.parquet"):
        with pytest.raises(DataError, match=rf"{name} cannot be read \(No such file"):
            read_records(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("p.csv", b"prompt,type\nfine,a\ntwo\0three,b\n", 3),
        ("p.tsv", b"prompt\ttype\nfine\ta\ntwo\tb\0\n", 3),
        ("p.jsonl", b'{"prompt": "fine"}\n{"prompt": "two\\u0000three"}\n', 2),
        ("p.jsonl", b'{"prompt": "fine"}\n{"prompt": "two\0three"}\n', 2),
        ("p.json", b'[{"prompt": "fine"},\n{"prompt": "two\\u0000three"}]', 2),
    ],
)
def test_a_nul_character_spoils_its_own_row(tmp_path: Path, name: str, data: bytes, line: int) -> None:
    path = make(tmp_path, name, data)
    assert [(r.reason, r.line) for r in read_records(path)] == [("", line - 1), ("undecodable", line)]
    with pytest.raises(DataError, match=f"line {line}"):
        read_strictly(path)


def test_parquet_text_that_is_not_utf8_spoils_its_own_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"caf\xe9", None], pa.binary())
    for kind in (pa.string(), pa.large_string()):
        text = pa.Array.from_buffers(pa.string(), 3, raw.buffers()).cast(kind, safe=False)
        pq.write_table(pa.table({"prompt": text, "n": [1, 2, 3]}), tmp_path / "p.parquet")
        records = read_records(tmp_path / "p.parquet")
        assert [r.reason for r in records] == ["", "undecodable", ""]
        assert [r.values["prompt"] for r in records] == ["fine", "caf\ufffd", None]
        assert records[1].detail == "column 'prompt' is not UTF-8"


def test_parquet_keeps_types_and_layers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": [{"role": "user", "content": "x"}], "flag": True, "raw": b"y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_records(tmp_path / "p.parquet")[0].values == rows[0]


def test_a_file_is_found_by_its_usual_name_in_another_case_or_gzipped(tmp_path: Path) -> None:
    assert find_file(tmp_path / "nowhere", "data.csv") is None
    make(tmp_path, "data.csv.gz", b"")
    assert find_file(tmp_path, "data.csv") == tmp_path / "data.csv.gz"
    make(tmp_path, "Data.CSV", b"")
    assert find_file(tmp_path, "data.csv") == tmp_path / "Data.CSV"
    make(tmp_path, "data.csv", b"")
    assert find_file(tmp_path, "data.csv") == tmp_path / "data.csv"


def test_a_table_of_ours_is_read_as_any_other(tmp_path: Path) -> None:
    write_table(tmp_path / "p.parquet", ROWS, pa.schema([("prompt", pa.string()), ("type", pa.string())]))
    assert [record.values for record in read_records(tmp_path / "p.parquet")] == ROWS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["p.jsonl", "p.json", "p.csv", "p.tsv", "p.parquet", "p.csv.gz"]),
    data=st.binary(max_size=60) | st.text('[]{}",:\n\\u0ae ', max_size=40).map(str.encode),
)
def test_no_bytes_cause_another_error_than_data_error(tmp_path: Path, name: str, data: bytes) -> None:
    try:
        records = read_records(make(tmp_path, name, data))
    except DataError as error:
        assert name in str(error)
    else:
        assert records
        assert [r.row for r in records] == sorted({r.row for r in records})
