"""What a source says of its rows: flags in every form of export, and no safe row ever taken for an unsafe one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drirl_core.config import SourceConfig
from drirl_core.errors import DataError
from drirl_core.prompts.adapters import SourceRows, read_source
from drirl_core.prompts.flags import FlagReader, label_key, plain_labels
from drirl_core.prompts.layouts import load_layouts
from drirl_core.taxonomy import SEVEN_CATEGORIES

NAMES = load_layouts()["beavertails"].order
PRIVACY, DRUGS = "privacy_violation", "drug_abuse,weapons,banned_substance"


def hot(*names: str, on: Any = 1, off: Any = 0) -> list[Any]:
    """Return a list of flags in the published order."""
    return [on if name in names else off for name in NAMES]


def read(folder: Path, rows: list[dict[str, Any]], adapter: str = "beavertails", **source: Any) -> SourceRows:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = SourceConfig(name="mine", path=str(path), adapter=adapter, **source)
    return read_source(config, path, SEVEN_CATEGORIES)


def forms(*names: str) -> list[Any]:
    """Return the forms in which the same flags come."""
    on = {name: name in names for name in NAMES}
    listed = list(names)
    return [
        on,
        {name: int(flag) for name, flag in on.items()},
        {name: str(flag) for name, flag in on.items()},
        {name: True if flag else None for name, flag in on.items()} if names else on,
        listed,
        hot(*names),
        hot(*names, on=True, off=False),
        hot(*names, on=1.0, off=0.0),
        hot(*names, on="1", off="0"),
        json.dumps(on),
        str(on),
        json.dumps(listed),
        str(listed),
        "[" + " ".join(map(repr, listed)) + "]",
        f"array({listed!r}, dtype=object)",
        json.dumps(hot(*names)),
        "[" + " ".join(map(str, hot(*names))) + "]",
        str(hot(*names, on=True, off=False)),
        "[" + " ".join(f"{flag}." for flag in hot(*names)) + "]",
    ]


@pytest.mark.parametrize("form", range(len(forms(PRIVACY))))
@pytest.mark.parametrize("marked", [True, False])
def test_flags_are_read_in_every_form(tmp_path: Path, form: int, marked: bool) -> None:
    unsafe, drugs, safe = ({"category": forms(*names)[form]} for names in ((PRIVACY,), (DRUGS,), ()))
    rows = [{"prompt": "p1", **unsafe}, {"prompt": "p2", **drugs}, {"prompt": "p3", **safe}]
    if marked:
        rows = [{**row, "is_safe": row["prompt"] == "p3"} for row in rows]
    found = read(tmp_path, rows)
    assert found.skipped == 1
    assert [(row.prompt, row.category, row.reason) for row in found.rows] == [
        ("p1", "privacy_and_property", ""),
        ("p2", "crimes_and_illegal_activities", ""),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (PRIVACY, [PRIVACY]),
        ("Privacy violation", ["Privacy violation"]),
        (DRUGS, [DRUGS]),
        ("drug_abuse, weapons, banned_substance", ["drug_abuse, weapons, banned_substance"]),
        (f"{PRIVACY},{DRUGS}", [PRIVACY, DRUGS]),
        (f"{PRIVACY}; {DRUGS} | self_harm", [PRIVACY, DRUGS, "self_harm"]),
    ],
)
def test_names_in_one_text_are_told_apart(text: str, names: list[str]) -> None:
    reader = FlagReader(("category",), (), {label_key(name) for name in NAMES}, NAMES)
    assert list(reader.marks({"category": text}).labels) == names


@pytest.mark.parametrize("said", [True, "true", "True", 1, "1", "yes", 1.0, "safe"])
def test_a_row_marked_safe_is_never_kept(tmp_path: Path, said: Any) -> None:
    rows = [{"prompt": "fine", "category": [PRIVACY], "is_safe": False}]
    rows += [{"prompt": "safe", "category": category, "is_safe": said} for category in ([], hot(), "", None, "safe")]
    rows += [{"prompt": "torn", "category": [PRIVACY], "is_safe": said}]
    found = read(tmp_path, rows)
    assert found.skipped == 5
    assert [(row.prompt, row.reason) for row in found.rows] == [("fine", ""), ("torn", "label_conflict")]
    assert found.rows[1].detail == "column 'is_safe' says safe, but column 'category' names privacy_violation"


@pytest.mark.parametrize("said", [False, "false", 0, "0", "no", "unsafe"])
def test_a_row_marked_unsafe_is_kept_and_routed_without_a_label(tmp_path: Path, said: Any) -> None:
    found = read(tmp_path, [{"prompt": "p", "category": [], "is_safe": said}])
    assert [(row.prompt, row.category, row.reason) for row in found.rows] == [("p", None, "")]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"category": None}, "missing_value", "column 'category' is empty, so it is not known whether the row is safe"),
        ({"category": dict.fromkeys(NAMES)}, "missing_value", "column 'category' is empty"),
        ({"category": 9}, "unknown_category", "column 'category' is 9 (int); flags are an object of booleans"),
        ({"category": [9]}, "unknown_category", "a list of flags holds names, or 0 and 1"),
        ({"category": [0, 1]}, "unknown_category", "a list of 2 flags"),
        ({"category": "[0, 1]"}, "unknown_category", "14 are needed"),
        ({"category": {PRIVACY: 0.7}}, "unknown_category", "neither true nor false"),
        ({"category": {PRIVACY: "perhaps"}}, "unknown_category", "neither true nor false"),
        ({"category": "{broken"}, "unknown_category", "cannot be parsed"),
        ({"category": "false"}, "unknown_category", "a list of 1 flags"),
        ({"category": "something new"}, "unknown_category", "names something new, which this adapter does not know"),
        ({"category": ["not a problem"]}, "unknown_category", "names not a problem"),
        ({"category": {"no_harm": True}}, "unknown_category", "names no_harm"),
        ({"category": [PRIVACY], "is_safe": "perhaps"}, "unknown_category", "column 'is_safe' is 'perhaps' (str)"),
        ({"category": [PRIVACY], "is_safe": 2}, "unknown_category", "column 'is_safe' is 2 (int)"),
    ],
)
def test_what_cannot_be_read_is_never_taken_for_unsafe(
    tmp_path: Path, row: dict[str, Any], reason: str, detail: str
) -> None:
    (found,) = read(tmp_path, [{"prompt": "p", **row}]).rows
    assert found.reason == reason
    assert detail in found.detail


def test_flags_in_csv_and_in_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "prompt,category,is_safe\np1,\"{'privacy_violation': True, 'self_harm': False}\",False\n"
        "p2,\"['self_harm']\",False\np3,[],True\n",
        encoding="utf-8",
    )
    flags = pa.map_(pa.string(), pa.bool_())
    table = pa.table(
        {
            "prompt": ["p1", "p2", "p3"],
            "category": pa.array([[(PRIVACY, True), ("self_harm", False)], [("self_harm", True)], []], flags),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    for name in ("train.csv", "train.parquet"):
        source = SourceConfig(name="mine", path=name, adapter="beavertails")
        found = read_source(source, tmp_path / name, SEVEN_CATEGORIES)
        assert found.skipped == 1
        assert [(row.prompt, row.category) for row in found.rows] == [
            ("p1", "privacy_and_property"),
            ("p2", "mental_health"),
        ]


def test_flags_under_another_name(tmp_path: Path) -> None:
    rows = [{"prompt": "p1", "kinds": [PRIVACY], "ok": "no"}, {"prompt": "p2", "kinds": [], "ok": "yes"}]
    found = read(tmp_path, rows, columns={"category": "kinds", "safe": "ok"})
    assert [(row.prompt, row.category) for row in found.rows] == [("p1", "privacy_and_property")]
    with pytest.raises(DataError, match="no column 'gone'"):
        read(tmp_path, rows, columns={"category": "kinds", "safe": "gone"})


def test_two_replies_make_a_row_safe_only_together(tmp_path: Path) -> None:
    none, bad = {"Cybercrime": False}, {"Cybercrime": True}

    def row(prompt: str, first: Any, second: Any, *safe: Any) -> dict[str, Any]:
        marks = dict(zip(("is_response_0_safe", "is_response_1_safe"), safe, strict=False))
        return {"prompt": prompt, "response_0_harm_category": first, "response_1_harm_category": second, **marks}

    rows = [
        row("p1", bad, none, False, True),
        row("p2", none, none, True, True),
        row("p3", none, None),
        row("p4", none, bad),
        row("p5", none, none),
        row("p6", [0, 1], [0, 0], True, False),
    ]
    found = read(tmp_path, rows, adapter="pku_saferlhf")
    assert found.skipped == 2
    assert [(row.prompt, row.reason) for row in found.rows] == [
        ("p1", ""),
        ("p3", "missing_value"),
        ("p4", ""),
        ("p6", "unknown_category"),
    ]
    assert "their order is not known here" in found.rows[3].detail


def test_own_files_may_mark_safe_rows_too(tmp_path: Path) -> None:
    rows = [{"prompt": "p1", "is_safe": False}, {"prompt": "p2", "is_safe": "TRUE"}, {"prompt": "p3", "is_safe": None}]
    found = read(tmp_path, rows, adapter="columns")
    assert found.skipped == 1
    assert [(row.prompt, row.reason) for row in found.rows] == [("p1", ""), ("p3", "missing_value")]


def test_plain_labels() -> None:
    assert plain_labels(" a ") == ["a"]
    assert plain_labels(["a", 3, None]) == ["a", "3"]
    assert plain_labels(float("nan")) == []
    with pytest.raises(ValueError, match="beavertails"):
        plain_labels({"a": True})


def test_the_published_order_names_every_label_once() -> None:
    assert len(NAMES) == 14
    assert set(NAMES) == set(load_layouts()["beavertails"].labels)
    assert list(NAMES) == sorted(NAMES)
