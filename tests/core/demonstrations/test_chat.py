"""Chat files as demonstrations: the first turn of the user, the last turn of the assistant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drirl_core.config import SourceConfig
from drirl_core.demonstrations.chat import column_of, spoken
from drirl_core.demonstrations.rows import read_columns, read_dropped
from drirl_core.demonstrations.validate import Failure
from drirl_core.errors import DataError

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Mock him."},
    {"role": "assistant", "content": "Who is he?"},
    {"role": "user", "content": "My cousin."},
    {"role": "assistant", "content": "I can't help with that."},
]


def _source(path: Path, **settings: Any) -> SourceConfig:
    return SourceConfig(name="mine", path=str(path), **settings)


def _values(path: Path, *needed: str, **settings: Any) -> list[Any]:
    rows = read_columns(_source(path, **settings), path, needed, ("category",))
    return [dict(row.values) if row.failure is None else row.failure for row in rows]


def _jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"conversations": [{"from": t["role"].replace("user", "human").replace("assistant", "gpt"), "value": t["content"]} for t in CHAT]},
        {"conversation": CHAT},
        {"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT]},
        {"prompt": CHAT[:2], "demonstration": CHAT[2:]},  # as TRL divides a chat
        {"prompt": "Mock him.", "messages": CHAT},
    ],
)  # fmt: skip
def test_the_users_first_turn_and_the_assistants_last_one_are_taken(tmp_path: Path, row: dict[str, Any]) -> None:
    path = _jsonl(tmp_path / "d.jsonl", {**row, "category": "insult"})
    assert _values(path, "prompt", "demonstration") == [
        {"prompt": "Mock him.", "demonstration": "I can't help with that.", "category": "insult"}
    ]


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_csv_file_holds_a_chat_as_text(tmp_path: Path, write: Any) -> None:
    """As JSON, or as `DataFrame.to_csv()` writes a list."""
    path = tmp_path / "d.csv"
    quoted = write(CHAT).replace('"', '""')
    path.write_text(f'messages,category\n"{quoted}",insult\n', encoding="utf-8")
    assert _values(path, "prompt", "demonstration")[0]["demonstration"] == "I can't help with that."


def test_a_parquet_file_holds_a_chat_as_structures(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": CHAT, "category": "insult"}]), path)
    assert _values(path, "prompt", "demonstration")[0]["prompt"] == "Mock him."


def test_harmless_answers_and_refusals_are_read_from_chats_too(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "h.jsonl", {"messages": CHAT})
    assert _values(path, "prompt", "answer")[0]["answer"] == "I can't help with that."
    assert _values(path, "refusal")[0]["refusal"] == "I can't help with that."


def test_a_mapped_column_may_hold_the_chat(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "d.jsonl", {"dialogue": CHAT, "category": "insult"})
    columns = {"prompt": "dialogue", "demonstration": "dialogue"}
    assert _values(path, "prompt", "demonstration", columns=columns)[0]["prompt"] == "Mock him."


@pytest.mark.parametrize(
    ("chat", "detail"),
    [
        (CHAT[:2], "messages holds no turn of the assistant (roles found: system, user)"),
        (CHAT[2:3], "messages holds no turn of the user (roles found: assistant)"),
        ([], "messages holds no turn of the user (roles found: none)"),
        (None, "prompt is missing"),
        ("[broken", "messages is no list of turns with role and content: '[broken'"),
        (["a", "b"], "messages is no list of turns with role and content: \"['a', 'b']\""),
    ],
)
def test_a_chat_without_such_a_turn_is_quarantined_with_the_reason(tmp_path: Path, chat: Any, detail: str) -> None:
    path = _jsonl(tmp_path / "d.jsonl", {"messages": CHAT}, {"messages": chat})
    first, second = _values(path, "prompt", "demonstration")
    assert first["prompt"] == "Mock him."
    assert (second.reason, second.detail) == ("missing_value", f"d.jsonl, row 2: {detail}")


def test_a_text_that_looks_like_a_list_is_a_text_in_other_columns() -> None:
    assert spoken('[{"role": "user"}]', "prompt", "prompt") == '[{"role": "user"}]'
    assert spoken(["a", "b"], "prompt", "messages") == ["a", "b"]
    assert spoken(CHAT, "licence", "messages") is CHAT
    assert isinstance(spoken([], "prompt", "messages"), Failure)


def test_our_own_columns_come_first() -> None:
    assert column_of("prompt", {}, ("prompt", "messages")) == "prompt"
    assert column_of("prompt", {"prompt": "q"}, ("prompt", "q", "messages")) == "q"
    assert column_of("demonstration", {}, ("prompt", "messages")) == "messages"
    assert column_of("category", {}, ("messages",)) == "category"
    assert column_of("prompt", {}, ("text",)) == "prompt"


def test_a_missing_column_names_the_way_with_a_chat(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "d.jsonl", {"text": "a"})
    with pytest.raises(
        DataError, match=r"has no column 'prompt' for prompt.*or give a chat file with a column `messages`"
    ):
        _values(path, "prompt", "demonstration")


def test_dropped_chats_bring_their_demonstrations(tmp_path: Path) -> None:
    _jsonl(tmp_path / "a.jsonl", {"messages": CHAT, "category": "insult"}, {"messages": CHAT[:2], "category": "insult"})
    rows = read_dropped(_source(tmp_path), tmp_path)
    assert [row.values["demonstration"] for row in rows if row.failure is None] == ["I can't help with that."]
