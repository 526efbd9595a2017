"""Rows of csv and tsv files: each with its line, none cut, merged or shifted in silence."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.files.csv_rows import csv_records
from drirl_core.files.records import Record

FILE = Path("p.csv")


def read(text: str | bytes, delimiter: str = ",") -> list[Record]:
    return csv_records(FILE, text if isinstance(text, bytes) else text.encode(), delimiter)


def test_quotes_line_feeds_ragged_rows_and_two_encodings() -> None:
    data = b'prompt,category\n"a, ""b""\nc",x\ncaf\xe9,y\n\xe9,too,many\ncaf\xc3\xa9,z\nalone\n'
    records = read(data)
    assert [(r.row, r.line, r.reason) for r in records] == [
        (1, 2, ""),
        (2, 4, "undecodable"),
        (3, 5, "missing_value"),
        (4, 6, ""),
        (5, 7, "missing_value"),
    ]
    assert records[0].values == {"prompt": 'a, "b"\nc', "category": "x"}
    assert records[1].values == {"prompt": "caf\ufffd", "category": "y"}
    assert records[2].told == "line 5: 3 fields where the header has 2; quote fields that hold ','"
    assert records[3].values["prompt"] == "caf\u00e9"
    assert records[4].told.startswith("line 7: 1 field where the header has 2")
    assert records[4].text == "alone"


def test_a_huge_field_spoils_no_other_row() -> None:
    records = read(b'prompt,n\nshort,1\n"' + b"x\n" * 200_000 + b'",2\nlast,3\n')
    assert [len(r.values["prompt"]) for r in records] == [5, 400_000, 4]
    assert [r.line for r in records] == [2, 3, 200_004]


def test_empty_lines_count_as_lines_and_make_no_rows() -> None:
    for end in ("\n", "\r\n", "\r"):
        records = read(end.join(["", "prompt,n", "", "a,1", "  ", ",", 'b,""', ""]))
        assert [(r.row, r.line, r.values) for r in records] == [
            (1, 4, {"prompt": "a", "n": "1"}),
            (2, 6, {"prompt": "", "n": ""}),
            (3, 7, {"prompt": "b", "n": ""}),
        ]


def test_blanks_around_a_quoted_field_do_not_count_and_quotes_inside_a_plain_one_stay() -> None:
    records = read('prompt,n\n  "a, b"  , 1\nfive 5" pipes,2\nsay "hi",3\n')
    assert [r.values for r in records] == [
        {"prompt": "a, b", "n": " 1"},
        {"prompt": 'five 5" pipes', "n": "2"},
        {"prompt": 'say "hi"', "n": "3"},
    ]


OPEN = [
    ("first column", 'prompt,label\nfine,privacy\n"So many letters, read them,privacy\nmore,weapons\n', 3),
    ("last column", 'label,prompt\nprivacy,fine\nweapons,"How do I\nprivacy,more\n', 3),
    ("after a field over two lines", 'a,b\n"x\ny","open\nz,w\n', 3),
    ("last line", 'a,b\nx,y\nz,"', 3),
    ("header", 'a,"b\nx,y\n', 1),
    ("escaped end", 'a,b\nx,"y""\n', 2),
    ("one column", 'prompt\nfine\n"open\nmore\n', 3),
]


@pytest.mark.parametrize(("text", "line"), [case[1:] for case in OPEN], ids=[case[0] for case in OPEN])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_quote_that_never_closes_is_refused_with_the_line_where_it_opens(
    text: str, line: int, delimiter: str
) -> None:
    with pytest.raises(DataError, match=rf"p\.csv, line {line}: the quote that opens here never closes"):
        read(text.replace(",", delimiter), delimiter)


SWALLOWED = [
    ("closed by a later quoted field", 'p,label\na,one\n"open,one\nb,two\n"c, d",two\n', 3, "meets the next one"),
    ("closed by a stray quote", 'p,label\na,one\n"open,one\nb,two\nc",two\nd,one\n', 3, "closes in line 5"),
    ("on the next line", 'p,label\na,one\n"open,one\nc",two\nd,one\n', 3, "closes in line 4"),
    ("last column", 'label,p\none,a\ntwo,b\none,"open\ntwo,c\none,d"\n', 4, "closes in line 6"),
    ("between two columns", 'id,p,label\n1,a,one\n2,"open,one\n3,b",two\n4,c,two\n', 3, "closes in line 4"),
    ("numbers", 'p,n\na,0\nb,1\n"open,0\nc,1\nd",0\n', 4, "closes in line 6"),
]


@pytest.mark.parametrize(("text", "line", "how"), [case[1:] for case in SWALLOWED], ids=[case[0] for case in SWALLOWED])
def test_a_field_that_swallowed_rows_is_refused(text: str, line: int, how: str) -> None:
    with pytest.raises(DataError, match=f"line {line}: the quote that opens here .*{how}"):
        read(text)


def test_long_prompts_that_hold_tables_and_commas_are_read() -> None:
    text = 'prompt,label\n"Sort this, please:\na,1\nb,2\nthank you, privacy",privacy\n"x,\ny",weapons\nz,privacy\n'
    assert [r.values["label"] for r in read(text)] == ["privacy", "weapons", "privacy"]
    numbers = 'prompt,label\nadd up,1\n"Add up:\n3,1\n4,0\n",0\n'
    assert [r.values["label"] for r in read(numbers)] == ["1", "0"]


def test_text_after_a_closing_quote_spoils_its_own_row() -> None:
    records = read('p,label\n"Hidden" is her diary,one\n"say ""no""",two\n"a "quoted" word",two\n')
    assert [(r.line, r.reason) for r in records] == [(2, "undecodable"), (3, ""), (4, "undecodable")]
    assert records[0].told == "line 2: text follows a closing quote; write a quote inside a quoted field twice"
    assert records[1].values["p"] == 'say "no"'


def test_a_value_pushed_into_a_column_without_a_heading_spoils_its_row() -> None:
    rows = [
        "prompt,harm,",
        "How do I read letters, and close them,privacy",
        "Make a trap,weapons,",
        "Look,privacy,note",
    ]
    records = read("\n".join([*rows, "Hide,privacy,"]))
    assert [r.reason for r in records] == ["undecodable", "", "", ""]
    assert "'privacy' of column 'harm' stands in a column without a heading" in records[0].detail


def test_a_header_that_repeats_is_no_row() -> None:
    records = read("prompt,label\na,x\nprompt,label\nb,y\n")
    assert [(r.line, r.reason) for r in records] == [(2, ""), (3, "undecodable"), (4, "")]
    assert records[1].detail == "it repeats the header"


@pytest.mark.parametrize(("header", "mark"), [("prompt;label", ";"), ("prompt\tlabel", "\t"), ("prompt|label", "|")])
def test_another_separator_is_named(header: str, mark: str) -> None:
    (record,) = read(f"{header}\na, b{mark}x\n")
    assert f"the header looks separated by {mark!r}" in record.detail


CELLS = st.text("ab,\"\n\r \u00e9\u4e2d'", max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_whatever_the_standard_library_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("h1", "h2"), *rows])
    try:
        records = read(file.getvalue())
    except DataError as error:  # a field that looks as if it had swallowed rows
        assert "look like rows of their own" in str(error)
        return
    kept = [row for row in rows if row != ("h1", "h2")]
    assert [tuple(r.values.values()) for r in records] == kept


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a,b", b"c", b"d,e,f", b"\xff,g", b'"h,\n""i""",j', b"", b'"k,l']), min_size=1, max_size=8
    )
)
def test_rows_are_numbered_without_gaps_and_lines_rise(lines: list[bytes]) -> None:
    try:
        records = read(b"\n".join([b"x,y", *lines]))
    except DataError:
        return
    assert [r.row for r in records] == list(range(1, len(records) + 1))
    assert [r.line for r in records] == sorted({r.line for r in records})
