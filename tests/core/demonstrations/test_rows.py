"""Rows of demonstrations, harmless prompts and refusals: every format, chats included, and what a file loses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drirl_core.config import DemonstratorConfig, SourceConfig
from drirl_core.demonstrations.demonstrators import FileDemonstrator
from drirl_core.demonstrations.rows import losses_of, read_columns, read_dropped
from drirl_core.demonstrations.validate import Failure
from drirl_core.errors import DataError

CHAT = [
    {"role": "system", "content": "Be nice."},
    {"role": "user", "content": "Mock him"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "please"},
    {"role": "assistant", "content": "No, I won't."},
]
NEEDED = ("prompt", "answer")


def source(path: Path, **settings: Any) -> SourceConfig:
    return SourceConfig(name="mine", path=str(path), **settings)


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
def test_a_chat_gives_prompt_and_answer(tmp_path: Path, kind: str, column: str) -> None:
    path = tmp_path / f"d.{kind}"
    if kind == "jsonl":
        jsonl(path, {column: CHAT, "kind": "general"})
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{column: CHAT, "kind": "general"}]), path)
    else:
        text = json.dumps(CHAT).replace('"', '""')
        path.write_text(f'{column},kind\n"{text}",general\n', encoding="utf-8")
    (row,) = read_columns(source(path), path, NEEDED, ("kind", "style"))
    assert row.values == {"prompt": "Mock him", "answer": "No, I won't.", "kind": "general", "style": ""}
    assert row.failure is None


def test_prompt_and_completion_may_be_chats_of_their_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": CHAT[:2], "completion": CHAT[4:]})
    columns = {"answer": "completion"}
    (row,) = read_columns(source(path, columns=columns), path, NEEDED)
    assert row.values == {"prompt": "Mock him", "answer": "No, I won't."}


def test_a_chat_without_an_answer_is_a_failure_of_its_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"messages": CHAT}, {"messages": CHAT[:2]}, {"messages": None})
    rows = read_columns(source(path), path, NEEDED)
    assert [row.failure and row.failure.reason for row in rows] == [None, "missing_value", "missing_value"]
    assert rows[1].failure and rows[1].failure.detail == (
        "d.jsonl, row 2: answer is in chat format without a turn of the assistant; roles found: system, user"
    )


def test_a_column_that_only_its_name_makes_a_chat_must_hold_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"messages": CHAT}, {"messages": "Mock him"}, {"messages": ["a", "b"]})
    rows = read_columns(source(path), path, NEEDED)
    assert [row.failure and row.failure.detail for row in rows] == [
        None,
        "d.jsonl, row 2: prompt is 'Mock him' (str), where a list of turns with role and content is needed",
        "d.jsonl, row 3: prompt is ['a', 'b'] (list), where a list of turns with role and content is needed",
    ]
    columns = {"prompt": "messages", "answer": "messages"}  # whoever maps it says what it is
    assert read_columns(source(path, columns=columns), path, NEEDED)[1].values["prompt"] == "Mock him"


def test_a_missing_column_names_the_way_with_a_chat(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "a"})
    with pytest.raises(
        DataError, match=r"no column 'prompt' for prompt.*a file in chat format with a column `messages`"
    ):
        read_columns(source(path), path, NEEDED)


def test_a_refusal_is_read_from_a_chat_and_from_a_csv_of_pandas(tmp_path: Path) -> None:
    quoted = repr(CHAT).replace('"', '""')  # as `DataFrame.to_csv` writes a list
    path = tmp_path / "r.csv"
    path.write_text(f'conversation\n"{quoted}"\n', encoding="utf-8")
    assert read_columns(source(path), path, ("refusal",))[0].values == {"refusal": "No, I won't."}


def test_a_column_of_its_own_comes_before_the_chat(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "Own", "messages": CHAT})
    assert read_columns(source(path), path, NEEDED)[0].values == {"prompt": "Own", "answer": "No, I won't."}
    with pytest.raises(DataError, match="no column 'reply' for answer"):
        read_columns(source(path, columns={"answer": "reply"}), path, NEEDED)


def test_dropped_chats_give_demonstrations(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"messages": CHAT, "category": ["insult"]}, {"messages": CHAT[:2]}, {"messages": [{}]})
    jsonl(tmp_path / "b.jsonl", {"prompt": "one", "demonstration": "text", "category": 3.0})
    jsonl(tmp_path / "c.jsonl", {"prompt": "two", "messages": "no chat"})
    rows = read_dropped(source(tmp_path), tmp_path)
    assert [row.values for row in rows] == [
        {"prompt": "Mock him", "demonstration": "No, I won't.", "category": "insult"},
        {"prompt": "one", "demonstration": "text", "category": "3"},
        {"prompt": "two", "demonstration": "no chat", "category": ""},
    ]
    assert [row.failure and row.failure.reason for row in rows] == [None, None, "missing_value"]


def test_optional_values_of_any_type_are_read_or_told(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl",
        {"prompt": "a", "answer": "b", "twin_of": 7.0, "kind": None},
        {"prompt": "a", "answer": "b", "twin_of": ["x"]},
        {"prompt": "a", "answer": "b", "kind": "general \ud83d"},
        {"prompt": "a\0", "answer": "b"},
        {"prompt": "a", "answer": "b \udc00"},
        {"prompt": 3, "answer": "b"},
    )
    rows = read_columns(source(path), path, NEEDED, ("kind", "twin_of"))
    assert rows[0].values == {"prompt": "a", "answer": "b", "kind": "", "twin_of": "7"}
    details = [row.failure.detail if row.failure else "" for row in rows[1:]]
    assert details[0] == "d.jsonl, row 2: twin_of is ['x'] (list), where one text, number or boolean is needed"
    assert details[1].startswith("d.jsonl, row 3: kind holds half a character")
    assert details[2].startswith("d.jsonl, row 4: column 'prompt' holds a NUL character")
    assert details[3].startswith("d.jsonl, row 5: answer holds half a character")
    assert details[4] == "d.jsonl, row 6: prompt is 3 (int); a text is needed"
    assert all(text.encode() or not text for row in rows for text in row.values.values())  # a table can hold them


def test_bytes_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"refusal": [b"I can't."]}), tmp_path / "r.parquet")
    (row,) = read_columns(source(tmp_path / "r.parquet"), tmp_path / "r.parquet", ("refusal",))
    assert row.failure == Failure(
        "missing_value", 'r.parquet, row 1: refusal is b"I can\'t." (bytes); a text is needed'
    )


def test_a_ragged_row_is_a_failure_with_its_line_and_an_open_quote_refuses_the_file(tmp_path: Path) -> None:
    path = tmp_path / "H.TSV.GZ"
    path.write_bytes(gzip.compress(b"prompt\tanswer\n\na\tb\nc\td\te\n"))
    rows = read_columns(source(path), path, NEEDED)
    assert [row.failure and row.failure.detail for row in rows] == [
        None,
        "H.TSV.GZ, row 2: line 4: 3 fields where the header has 2; quote fields that hold '\\t'",
    ]
    path = tmp_path / "h.csv"
    path.write_text('prompt,answer\na,"b\n')
    with pytest.raises(DataError, match="line 2: the quote that opens here never closes"):
        read_columns(source(path), path, NEEDED)


def test_what_a_file_loses_is_counted_without_repeats(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [{"prompt": f"p{n}", "category": "insult", "demonstration": "x"} for n in (1, 1, 2)]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + "broken\n" + '{"prompt": "p4", "category": "z"}\n'
    )
    found = FileDemonstrator(DemonstratorConfig(source=source(path)), path, ("insult",))
    (loss,) = found.losses
    assert (loss.kept, loss.lost, loss.share) == (2, 2, 0.5)
    assert str(loss) == (
        "3 of 5 rows of mine are in quarantine: 1 duplicate_prompt, 1 missing_value, 1 undecodable; first: d.jsonl, row 4: "
        "not JSON: Expecting value at character 1"
    )


def test_repeats_alone_and_shipped_rows_are_no_losses(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"prompt": "a", "answer": "b"})
    rows = read_columns(source(path), path, NEEDED)
    bad, again = Failure("refuses", "it refuses"), Failure("duplicate_prompt", "again")
    assert losses_of(source(path), rows, [None]) == []
    assert losses_of(source(path), rows, [again]) == []
    assert losses_of(SourceConfig(name="helpful", path="embedded"), rows, [bad]) == []
    (loss,) = losses_of(source(path), rows, [bad])
    assert str(loss).endswith("1 refuses; first: d.jsonl, row 1: it refuses")
