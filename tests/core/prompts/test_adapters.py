"""Adapters: documented layouts, label maps, skipped safe rows, and errors that say what to write."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drirl_core.config import SourceConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.prompts.adapters import SourceRows, label_key, read_source
from drirl_core.prompts.layouts import load_layouts
from drirl_core.taxonomy import SEVEN_CATEGORIES

SHARED = Path(__file__).parents[3] / "../shared/data"


def _read(path: Path, categories: tuple[str, ...] = SEVEN_CATEGORIES, **source: object) -> SourceRows:
    return read_source(SourceConfig(**{"name": "mine", "path": str(path), **source}), path, categories)  # type: ignore[arg-type]


def _jsonl(folder: Path, rows: list[dict]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_record_is_complete_and_maps_to_the_seven() -> None:
    expected = {"columns", "embedded", "safety_prompts", "xsafety", "do_not_answer", "beavertails", "pku_saferlhf"}
    benchmarks = {"strongreject", "harmbench", "jailbreakbench", "xstest"}
    layouts = load_layouts()
    assert set(layouts) == expected | benchmarks
    assert {name for name, layout in layouts.items() if layout.evaluation} == benchmarks
    for layout in layouts.values():
        assert layout.prompt
        assert layout.licence
        assert set(layout.labels.values()) <= {*SEVEN_CATEGORIES, "router"}
        assert layout.home or layout.name == "columns"
        keys = Counter((label_key(label), category) for label, category in layout.labels.items())
        assert len({key for key, _ in keys}) == len(keys), "one label, two categories"


@pytest.mark.parametrize(
    "size", [{"beavertails": 14, "strongreject": 6, "harmbench": 7, "jailbreakbench": 10, "do_not_answer": 12}]
)
def test_label_maps_name_every_label_of_their_source(size: dict[str, int]) -> None:
    assert {name: len(load_layouts()[name].labels) for name in size} == size


@pytest.mark.parametrize(
    ("adapter", "folder", "rows", "skipped", "unmapped"),
    [
        ("do_not_answer", "do_not_answer", 939, 0, 50),
        ("xsafety", "xsafety_en", 1400, 1400, 0),
        ("strongreject", "strongreject", 313, 0, 0),
        ("harmbench", "harmbench", 400, 0, 22),
        ("xstest", "xstest", 200, 250, 150),
    ],
)
def test_public_files(adapter: str, folder: str, rows: int, skipped: int, unmapped: int) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{folder} is not here")
    read = _read(SHARED / folder, adapter=adapter)
    assert (len(read.rows), read.skipped) == (rows, skipped)
    assert sum(row.category is None for row in read.rows) == unmapped
    assert all(row.prompt and not row.reason and row.licence == read.layout.licence for row in read.rows)


def test_xsafety_gives_two_hundred_rows_of_each_of_the_seven() -> None:
    if not (SHARED / "xsafety_en").is_dir():
        pytest.skip("xsafety_en is not here")
    assert Counter(row.category for row in _read(SHARED / "xsafety_en", adapter="xsafety").rows) == dict.fromkeys(
        SEVEN_CATEGORIES, 200
    )


def test_xstest_gives_its_unsafe_rows_only() -> None:
    if not (SHARED / "xstest").is_dir():
        pytest.skip("xstest is not here")
    with (SHARED / "xstest/xstest_prompts.csv").open(encoding="utf-8") as file:
        unsafe = {row["prompt"] for row in csv.DictReader(file) if row["label"] == "unsafe"}
    assert {row.prompt for row in _read(SHARED / "xstest", adapter="xstest").rows} == unsafe


def test_beavertails_takes_the_first_true_label_in_the_stated_order(tmp_path: Path) -> None:
    none = dict.fromkeys(load_layouts()["beavertails"].labels, False)
    rows = [
        {
            "prompt": "p1",
            "response": "r",
            "is_safe": False,
            "category": {**none, "violence,aiding_and_abetting,incitement": True},
        },
        {
            "prompt": "p2",
            "category": {**none, "violence,aiding_and_abetting,incitement": True, "self_harm": True},
            "is_safe": False,
        },
        {"prompt": "p3", "category": none, "is_safe": True},
        {"prompt": "p4", "category": {**none, "controversial_topics,politics": True}},
        {"prompt": "p5", "category": {**none, "controversial_topics,politics": True, "animal_abuse": True}},
        {"prompt": "p6", "category": None},
        {"prompt": "p7", "category": "drug_abuse,_weapons,_banned_substance"},
        {"prompt": "p8", "category": {"something_new": True}},
    ]
    read = _read(_jsonl(tmp_path, rows), adapter="beavertails")
    assert read.skipped == 1
    assert {row.prompt: row.category for row in read.rows} == {
        "p1": "physical_harm",
        "p2": "mental_health",
        "p4": None,
        "p5": "ethics_and_morality",
        "p6": None,
        "p7": "crimes_and_illegal_activities",
        "p8": None,
    }
    # Whether these two are unsafe cannot be read, so they are not taken for it.
    assert {row.prompt: row.reason for row in read.rows if row.reason} == {
        "p6": "missing_value",
        "p8": "unknown_category",
    }
    assert read.rows[1].given == "self_harm, violence,aiding_and_abetting,incitement"
    assert read.rows[0].licence == "CC-BY-NC-4.0"


def test_pku_saferlhf_joins_the_labels_of_both_replies(tmp_path: Path) -> None:
    none = {"Insulting Behavior": False, "Cybercrime": False, "Physical Harm": False}
    replies = ("response_0_harm_category", "response_1_harm_category")
    rows = [
        {"prompt": "p1", **dict(zip(replies, ({**none, "Cybercrime": True}, none), strict=True))},
        {
            "prompt": "p2",
            **dict(zip(replies, ({**none, "Cybercrime": True}, {**none, "Insulting Behavior": True}), strict=True)),
        },
        {"prompt": "p3", **dict(zip(replies, (none, none), strict=True))},
    ]
    read = _read(_jsonl(tmp_path, rows), adapter="pku_saferlhf")
    assert read.skipped == 1
    assert [(row.prompt, row.category) for row in read.rows] == [
        ("p1", "crimes_and_illegal_activities"),
        ("p2", "insult"),
    ]


def test_jailbreakbench_and_safety_prompts_layouts(tmp_path: Path) -> None:
    jbb = tmp_path / "harmful-behaviors.csv"
    jbb.write_text(
        "Index,Goal,Target,Behavior,Category,Source\n0,g1,t,b,Malware/Hacking,x\n1,g2,t,b,Expert advice,x\n",
        encoding="utf-8",
    )
    goals = _read(tmp_path, adapter="jailbreakbench").rows
    assert [(r.prompt, r.category) for r in goals] == [("g1", "crimes_and_illegal_activities"), ("g2", None)]
    scenarios = tmp_path / "typical_safety_scenarios.json"
    rows = {"Mental_Health": [{"prompt": "\u5982\u4f55", "response": "r", "type": "Mental_Health"}]}
    scenarios.write_text(json.dumps(rows), encoding="utf-8")
    assert [(r.prompt, r.category) for r in _read(scenarios, adapter="safety_prompts").rows] == [
        ("\u5982\u4f55", "mental_health")
    ]


def test_column_map_fixed_category_licence_and_other_taxonomies(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path,
        [{"text": "p1", "kind": "Physical Harm", "terms": "MIT"}, {"text": "p2", "kind": "weather", "terms": None}],
    )
    read = _read(path, columns={"prompt": "text", "category": "kind", "licence": "terms"})
    assert [(r.prompt, r.category, r.given, r.licence) for r in read.rows] == [
        ("p1", "physical_harm", "Physical Harm", "MIT"),
        ("p2", None, "weather", "unknown"),
    ]
    fixed = _read(path, columns={"prompt": "text"}, category="insult", licence="CC0-1.0")
    assert {(r.category, r.licence) for r in fixed.rows} == {("insult", "CC0-1.0")}
    other = _read(path, categories=("weather",), columns={"prompt": "text", "category": "kind"})
    assert [r.category for r in other.rows] == [None, "weather"]


def test_rows_without_a_usable_prompt_or_with_a_taken_id_keep_their_reason(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "p1"}, {"id": "a", "prompt": "p2"}, {"id": "b"}, {"id": "c", "prompt": 7}]
    read = _read(_jsonl(tmp_path, [*rows, {"prompt": "p3"}, {"prompt": "p4"}]), columns={"id": "id"})
    assert [(r.row, r.prompt, r.reason) for r in read.rows] == [
        (1, "p1", ""),
        (2, "p2", "duplicate_id"),
        (3, "", "missing_value"),
        (4, "7", "missing_value"),
        (5, "p3", ""),
        (6, "p4", ""),
    ]
    assert "row 1" in read.rows[1].detail


def test_numbers_and_booleans_are_labels_and_missing_values_are_none(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p1", "kind": 3, "id": 1.0, "terms": float("nan")},
        {"prompt": "p2", "kind": True, "id": 2, "terms": None},
        {"prompt": "p3", "kind": float("nan"), "id": None, "terms": "MIT"},
        {"prompt": "p4", "kind": ["nothing", "3"], "id": "x"},
        {"prompt": "p5", "kind": {"3": True}},
    ]
    read = _read(_jsonl(tmp_path, rows), ("3", "true"), columns={"category": "kind", "id": "id", "licence": "terms"})
    assert [(r.prompt, r.given, r.category, r.row_id, r.licence, r.reason) for r in read.rows] == [
        ("p1", "3", "3", "1", "unknown", ""),
        ("p2", "true", "true", "2", "unknown", ""),
        ("p3", "", None, "", "MIT", ""),
        ("p4", "nothing, 3", "3", "x", "unknown", ""),
        ("p5", "", None, "", "unknown", "unknown_category"),
    ]


def test_a_filter_quarantines_what_it_cannot_read_and_ignores_case(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "type": "contrast_discr", "label": label}
        for n, label in enumerate(["Unsafe ", "SAFE", None])
    ]
    read = _read(_jsonl(tmp_path, rows), adapter="xstest")
    assert read.skipped == 1
    assert [(r.prompt, r.reason, r.detail) for r in read.rows] == [
        ("p0", "", ""),
        ("p2", "missing_value", "column 'label' is empty"),
    ]


CHAT = [{"role": "system", "content": "Be nice."}, {"role": "user", "content": "Mock him"}]


def test_prompts_in_chat_format_are_the_first_turn_of_the_user(tmp_path: Path) -> None:
    rows = [
        {"messages": [*CHAT, {"role": "assistant", "content": "no"}, {"role": "user", "content": "please"}]},
        {"messages": CHAT[:1]},
        {"messages": json.dumps(CHAT)},
    ]
    for columns, given in (({}, rows), ({"prompt": "messages"}, rows), ({}, [{"prompt": r["messages"]} for r in rows])):
        read = _read(_jsonl(tmp_path, given), columns=columns)
        assert [(r.prompt if not r.reason else "", r.reason) for r in read.rows] == [
            ("Mock him", ""),
            ("", "missing_value"),
            ("Mock him", ""),
        ]
        assert "without a turn of the user; roles found: system" in read.rows[1].detail
    pq.write_table(pa.Table.from_pylist([{"conversations": CHAT, "id": 1}]), tmp_path / "p.parquet")
    assert [r.prompt for r in _read(tmp_path / "p.parquet").rows] == ["Mock him"]


def test_a_column_that_only_its_name_makes_a_chat_must_hold_one(tmp_path: Path) -> None:
    """A transcript as one text, for example, is no prompt; whoever maps the column says that it is."""
    rows = [{"messages": CHAT}, {"messages": "User: Mock him\nAssistant: No."}]
    read = _read(_jsonl(tmp_path, rows)).rows
    assert [row.reason for row in read] == ["", "missing_value"]
    assert "where a list of turns with role and content is needed" in read[1].detail
    assert [row.reason for row in _read(_jsonl(tmp_path, rows), columns={"prompt": "messages"}).rows] == ["", ""]
    with pytest.raises(DataError, match="holds no text in column 'messages'; row 1: column 'messages' is 'User: "):
        _read(_jsonl(tmp_path, rows[1:]))


def test_a_column_without_any_text_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    for prompts, what in (
        ([b"Mock him", b"Mock her"], r"b'Mock him' \(bytes\)"),
        ([3, 4], r"3 \(int\)"),
        ([None], "is empty"),
    ):
        pq.write_table(pa.table({"prompt": prompts, "category": ["insult"] * len(prompts)}), tmp_path / "p.parquet")
        with pytest.raises(DataError, match=rf"source mine: .* holds no text in column 'prompt'; row 1: .*{what}"):
            _read(tmp_path / "p.parquet")


def test_undecodable_rows_are_shown_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"prompt,category\ncaf\xe9 bomb,insult\nplain,insult\n")
    first, second = _read(path).rows
    assert (first.prompt, first.reason, first.category) == ("caf\ufffd bomb", "undecodable", "insult")
    assert (second.prompt, second.reason) == ("plain", "")


def test_a_wrong_column_names_what_is_there_and_what_to_write(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, [{"promt": "p1", "label": "insult"}])
    with pytest.raises(DataError) as caught:
        _read(path)
    parts = (
        "mine",
        "no column 'prompt'",
        "Columns found: promt, label",
        "did you mean 'promt'?",
        "columns: {prompt: <name of the column>}",
    )
    assert [part for part in parts if part not in str(caught.value)] == []
    with pytest.raises(DataError, match=r"no column 'labels'.*did you mean 'label'"):
        _read(path, columns={"prompt": "promt", "category": "labels"})
    with pytest.raises(DataError, match="types_of_harm"):
        _read(_jsonl(tmp_path, [{"question": "p"}]), adapter="do_not_answer")
    with pytest.raises(DataError, match=r"no column 'label'.*adapter `columns`"):
        _read(_jsonl(tmp_path, [{"prompt": "p", "type": "homonyms"}]), adapter="xstest")
    with pytest.raises(DataError, match="response_0_harm_category"):
        _read(_jsonl(tmp_path, [{"prompt": "p"}]), adapter="pku_saferlhf")
    semicolons = tmp_path / "p.csv"
    semicolons.write_text("prompt;category\np;insult\n", encoding="utf-8")
    with pytest.raises(DataError, match="separated by ';'"):
        _read(semicolons)


def test_wrong_settings_are_config_errors(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, [{"prompt": "p"}])
    with pytest.raises(ConfigError, match="unknown adapter 'xtest'; did you mean 'xstest'"):
        _read(path, adapter="xtest")
    with pytest.raises(ConfigError, match="unknown key 'promt'"):
        _read(path, columns={"promt": "prompt"})
    with pytest.raises(ConfigError, match="no category 'insults'; did you mean 'insult'"):
        _read(path, category="insults")


# Folders of files.


def test_a_folder_is_all_its_files_by_name_and_rows_tell_their_file(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("prompt,id\nMock him,1\n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "Mock her", "id": 1}\nbroken\n')
    (tmp_path / ".hidden.csv").write_text("nonsense")
    (tmp_path / "below").mkdir()
    rows = _read(tmp_path, columns={"id": "id"}).rows
    assert [(row.file, row.row, row.prompt, row.reason) for row in rows] == [
        ("a.jsonl", 1, "Mock her", ""),
        ("a.jsonl", 2, "broken", "undecodable"),
        ("b.csv", 1, "Mock him", ""),  # its ids are its own
    ]
    assert [row.place for row in rows] == ["mine a.jsonl row 1", "mine a.jsonl row 2", "mine b.csv row 1"]


def test_a_folder_that_holds_a_usual_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Mock her"}\n')
    (tmp_path / "notes.txt").write_text("not read")
    rows = _read(tmp_path).rows
    assert [(row.file, row.prompt, row.place) for row in rows] == [("", "Mock her", "mine row 1")]
    everything = SourceConfig(name="mine", path=str(tmp_path))
    with pytest.raises(DataError, match=r"notes\.txt: files ending in '\.txt' are not read"):
        read_source(everything, tmp_path, SEVEN_CATEGORIES, all_files=True)


def test_the_usual_file_of_a_public_set_is_found_gzipped_and_in_another_case(tmp_path: Path) -> None:
    (tmp_path / "XSTEST_prompts.CSV.gz").write_bytes(
        gzip.compress(b"prompt,type,label\nMock her,contrast_discr,unsafe\n")
    )
    (tmp_path / "notes.csv").write_text("nonsense\n")
    assert [row.prompt for row in _read(tmp_path, adapter="xstest").rows] == ["Mock her"]


def test_an_empty_folder_is_an_error_unless_it_may_be_empty(tmp_path: Path) -> None:
    source = SourceConfig(name="mine", path=str(tmp_path))
    with pytest.raises(DataError, match="holds no files; put at least one file of prompts into it"):
        read_source(source, tmp_path, SEVEN_CATEGORIES)
    for folder in (tmp_path, tmp_path / "not there yet"):
        found = read_source(source, folder, SEVEN_CATEGORIES, all_files=True)
        assert (found.rows, found.skipped, found.layout.name) == ((), 0, "columns")
