"""Reading files: every row is returned, used or with its reason, for any bytes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.prompts.files import column_names, read_records
from drirl_core.store.tables import write_table


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_jsonl_rows_carry_their_line_and_bad_lines_their_reason(tmp_path: Path) -> None:
    lines = [
        b'{"prompt": "one"}',
        b"",
        b'{"prompt": "caf\xe9"}',
        b"{not json",
        b'["a list"]',
        b'{"prompt": "two\xe2\x80\xa8lines"}',
    ]
    records = read_records(_file(tmp_path, "p.jsonl", b"\n".join(lines)))
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


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    jsonl = read_records(_file(tmp_path, "p.jsonl", b'\xef\xbb\xbf{"prompt": "one"}\r\n{"prompt": "two"}\r\n'))
    csv = read_records(_file(tmp_path, "p.csv", b"\xef\xbb\xbfprompt,category\r\none,a\r\ntwo,b\r\n"))
    assert [r.values["prompt"] for r in jsonl] == [r.values["prompt"] for r in csv] == ["one", "two"]
    assert column_names(csv) == ["prompt", "category"]


def test_csv_with_quotes_line_feeds_ragged_rows_and_two_encodings(tmp_path: Path) -> None:
    data = b'prompt,category\n"a, ""b""\nc",x\ncaf\xe9,y\n\xe9,too,many\ncaf\xc3\xa9,z\nalone\n'
    records = read_records(_file(tmp_path, "p.csv", data))
    assert [(r.row, r.reason) for r in records] == [
        (1, ""),
        (2, "undecodable"),
        (3, "missing_value"),
        (4, ""),
        (5, "missing_value"),
    ]
    assert records[0].values == {"prompt": 'a, "b"\nc', "category": "x"}
    assert records[1].values == {"prompt": "caf\ufffd", "category": "y"}
    assert "3 fields where the header has 2" in records[2].detail
    assert records[3].values["prompt"] == "caf\u00e9"
    assert records[4].text == "alone"


def test_a_huge_csv_field_spoils_no_other_row(tmp_path: Path) -> None:
    data = b'prompt,n\nshort,1\n"' + b"x\n" * 200_000 + b'",2\nlast,3\n'
    records = read_records(_file(tmp_path, "p.csv", data))
    assert [len(r.values["prompt"]) for r in records] == [5, 400_000, 4]


def test_tabs_gzip_json_and_parquet(tmp_path: Path) -> None:
    expected = [{"prompt": "one", "type": "Insult"}, {"prompt": "two", "type": "Insult"}]
    lines = "".join(json.dumps(row) + "\n" for row in expected).encode()
    write_table(tmp_path / "p.parquet", expected, pa.schema([("prompt", pa.string()), ("type", pa.string())]))
    files = [
        _file(tmp_path, "p.tsv", b"prompt\ttype\none\tInsult\ntwo\tInsult\n"),
        _file(tmp_path, "p.jsonl.gz", gzip.compress(lines)),
        _file(tmp_path, "p.json", json.dumps(expected).encode()),
        _file(tmp_path, "q.json", json.dumps({"Insult": expected}).encode()),
        tmp_path / "p.parquet",
    ]
    for path in files:
        assert [record.values for record in read_records(path)] == expected, path.name


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", b"", "is empty"),
        ("p.csv", b"\xef\xbb\xbf \n\n", "is empty"),
        ("p.csv", b"prompt,category\n", "holds no rows"),
        ("p.json", b"[]", "holds no rows"),
        ("p.json", b"[caf\xe9]", "save it as UTF-8"),
        ("p.json", b"3", "must hold a list"),
        ("p.jsonl", b"prompt,category\nhello,insult\n", "none of its 2 rows can be read as jsonl"),
        ("p.jsonl", "é".encode("utf-16"), "UTF-16"),
        ("p.csv", b"a,a\n1,2\n", "column names repeat"),
        ("p.csv", b"x" * 200_000, "first line must name the columns"),
        ("p.xlsx", b"PK", r"'\.xlsx' are not read"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "x"}')[:-6], "not a complete gzip file"),
        ("p.parquet", b"PAR1", "damaged"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_records(_file(tmp_path, name, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be read"):
        read_records(tmp_path / "gone.jsonl")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["p.jsonl", "p.json", "p.csv", "p.tsv", "p.parquet", "p.csv.gz"]), data=st.binary(max_size=60)
)
def test_no_bytes_cause_another_error_than_data_error(tmp_path: Path, name: str, data: bytes) -> None:
    try:
        records = read_records(_file(tmp_path, name, data))
    except DataError as error:
        assert name in str(error)
    else:
        assert records
        assert [r.row for r in records] == sorted({r.row for r in records})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from([b"a,b", b"c", b"d,e,f", b"\xff,g", b'"h,\n""i""",j', b"", b'"k,l']), min_size=1, max_size=8
    )
)
def test_csv_rows_are_numbered_without_gaps(tmp_path: Path, lines: list[bytes]) -> None:
    try:
        records = read_records(_file(tmp_path, "p.csv", b"\n".join([b"x,y", *lines])))
    except DataError:
        return
    assert [r.row for r in records] == list(range(1, len(records) + 1))
