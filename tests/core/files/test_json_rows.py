"""JSON files in the layouts that people save them in: read right, or refused with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drirl_core.errors import DataError
from drirl_core.files.reading import read_records
from drirl_core.files.records import Record

ROWS = [{"prompt": f"prompt, number {n}", "category": "privacy"} for n in range(3)]
LINES = [json.dumps(row) for row in ROWS]


def read(folder: Path, text: str, name: str = "p.jsonl") -> list[Record]:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return read_records(folder / name)


LAYOUTS = {
    "lines": "\n".join(LINES),
    "array over lines": "[\n" + ",\n".join(LINES) + "\n]\n",
    "array with a comma at its end": "[\n" + ",\n".join(LINES) + ",\n]\n",
    "array in one line": json.dumps(ROWS),
    "array laid out": json.dumps(ROWS, indent=2),
    "brackets beside the objects": "[" + ",\n".join(LINES) + "]",
    "a comma after each line": ",\n".join(LINES) + ",\n",
    "commas before": "\n,".join(LINES),
    "objects laid out": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects in one line": " ".join(LINES),
    "Windows": "\r\n".join(LINES),
    "empty lines": "\n\n".join(LINES) + "\n\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["p.jsonl", "p.ndjson", "p.json"])
def test_layouts_are_read_right_whatever_the_ending(tmp_path: Path, layout: str, name: str) -> None:
    records = read(tmp_path, LAYOUTS[layout], name)
    assert [record.values for record in records] == ROWS
    assert not any(record.reason for record in records)


def test_rows_of_other_layouts_know_their_lines(tmp_path: Path) -> None:
    assert [(r.row, r.line) for r in read(tmp_path, LAYOUTS["array over lines"])] == [(2, 2), (3, 3), (4, 4)]
    assert [(r.row, r.line) for r in read(tmp_path, LAYOUTS["objects laid out"])] == [(1, 1), (5, 5), (9, 9)]
    assert [(r.row, r.line) for r in read(tmp_path, LAYOUTS["objects in one line"])] == [(1, 1), (2, 1), (3, 1)]
    assert [(r.row, r.line) for r in read(tmp_path, LAYOUTS["array over lines"], "p.json")] == [(1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("end", ["\n]\n", "]", ",\n]\n", ""])
def test_one_bad_row_of_an_array_spoils_itself_only(tmp_path: Path, end: str) -> None:
    records = read(tmp_path, "[\n" + ",\n".join([LINES[0], '{"prompt": broken}', LINES[2]]) + end)
    assert [(r.row, r.reason) for r in records] == [(2, ""), (3, "undecodable"), (4, "")]
    assert records[1].detail == "not JSON: Expecting value at character 12"


def test_an_array_that_is_cut_off_loses_its_last_row_only(tmp_path: Path) -> None:
    text = LAYOUTS["array over lines"]
    records = read(tmp_path, text[: text.rindex("privacy")])
    assert [r.reason for r in records] == ["", "", "undecodable"]


def test_a_key_that_stands_twice_spoils_its_row(tmp_path: Path) -> None:
    records = read(tmp_path, "\n".join([LINES[0], '{"prompt": "a", "prompt": "b"}']))
    assert [(r.row, r.reason) for r in records] == [(1, ""), (2, "undecodable")]
    assert records[1].detail == "the key 'prompt' stands twice in one object"
    nested = read(tmp_path, "\n".join([LINES[0], '{"prompt": "a", "category": {"x": false, "x": true}}']))
    assert nested[1].detail == "the key 'x' stands twice in one object"


def test_values_that_are_no_objects_are_bad_rows(tmp_path: Path) -> None:
    for name in ("p.jsonl", "p.json"):
        records = read(tmp_path, json.dumps([ROWS[0], "text", None, [1]]), name)
        assert [r.reason for r in records] == ["", *["undecodable"] * 3]
        assert "a JSON str, not an object with columns" in records[1].detail


def test_lists_of_rows_in_an_object_are_its_rows(tmp_path: Path) -> None:
    text = json.dumps({"version": 1, "tags": ["a", "b"], "privacy": ROWS[:2], "weapons": ROWS[2:]})
    assert [r.values for r in read(tmp_path, text, "p.json")] == ROWS


def test_a_bad_row_of_a_json_array_with_a_row_per_line_spoils_itself_only(tmp_path: Path) -> None:
    records = read(tmp_path, '[{"prompt": "x"},\n {"prompt" "y"}]', "p.json")
    assert [(r.row, r.reason) for r in records] == [(1, ""), (2, "undecodable")]


def test_json_that_is_broken_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.json, line 3: not JSON: Expecting ':' delimiter"):
        read(tmp_path, '[\n{"prompt": "a",\n"b" "c"}]', "p.json")
    with pytest.raises(DataError, match="line 2: the key 'b' stands twice in one object"):
        read(tmp_path, '[\n{"b": 1,\n"b": 2}]', "p.json")
    deep = "[" * 100_000
    for name in ("p.json", "p.jsonl"):
        with pytest.raises(DataError, match=name):
            read(tmp_path, deep, name)
