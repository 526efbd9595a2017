"""The row cache: rows by content key, shared between processes, and refused when damaged."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.errors import ArtifactError
from drirl_core.store.rowcache import RowCache, content_key


def test_put_and_get(tmp_path: Path) -> None:
    cache = RowCache(tmp_path / "rows.sqlite")
    assert cache.get_many(["a", "b"]) == {}
    cache.put_many({"a": b"1", "b": b"\x00\xff", "empty": b""})
    assert cache.get_many(["b", "missing", "a", "a", "empty"]) == {"a": b"1", "b": b"\x00\xff", "empty": b""}
    assert RowCache(tmp_path / "rows.sqlite").get_many(["a"]) == {"a": b"1"}
    assert cache.get_many([]) == {}
    cache.put_many({})


@pytest.mark.parametrize("name", ["what? #1", "100%", "a%20b", "a;b&c=d", "größe [1]", "file:x"])
def test_any_path_can_hold_it(tmp_path: Path, name: str) -> None:
    """The path is a path and no address: nothing in it is decoded or cut off."""
    folder = tmp_path / name
    folder.mkdir()
    RowCache(folder / "rows.sqlite").put_many({"a": b"1"})
    assert RowCache(folder / "rows.sqlite").get_many(["a"]) == {"a": b"1"}
    assert {file.name.partition("-")[0] for file in folder.iterdir()} == {"rows.sqlite"}
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    cache = RowCache(tmp_path / "rows.sqlite")
    rows = {f"key {i}": str(i).encode() for i in range(1201)}
    cache.put_many(rows)
    assert cache.get_many(f"key {i}" for i in range(1300)) == rows


def test_the_first_value_wins(tmp_path: Path) -> None:
    cache = RowCache(tmp_path / "rows.sqlite")
    cache.put_many({"a": b"first"})
    cache.put_many({"a": b"second", "b": b"new"})
    assert cache.get_many(["a", "b"]) == {"a": b"first", "b": b"new"}


def test_a_failed_transaction_stores_nothing(tmp_path: Path) -> None:
    class Broken(dict[str, bytes]):
        def items(self) -> Any:
            yield "a", b"1"
            raise RuntimeError("killed halfway")

    cache = RowCache(tmp_path / "rows.sqlite")
    with pytest.raises(RuntimeError, match="killed halfway"):
        cache.put_many(Broken())
    assert cache.get_many(["a"]) == {}


def _write(path: Path, worker: int) -> None:
    cache = RowCache(path)
    for start in range(0, 100, 10):
        cache.put_many({f"shared {i}": str(worker).encode() for i in range(start, start + 10)})
        cache.put_many({f"own {worker} {i}": b"x" for i in range(start, start + 10)})


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    """Four processes write 100 shared and 100 own rows each: 100 + 400 rows, none lost, none duplicated."""
    path, context = tmp_path / "rows.sqlite", multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    keys = [f"shared {i}" for i in range(100)] + [f"own {w} {i}" for w in range(4) for i in range(100)]
    found = RowCache(path).get_many(keys)
    assert len(found) == 500
    assert {value for key, value in found.items() if key.startswith("shared")} <= {b"0", b"1", b"2", b"3"}


@pytest.mark.parametrize(
    "content", [b"this is no database at all" * 100, b"\x00" * 4096, b"SQLite format 3\x00" + b"garbage" * 200]
)
def test_a_damaged_cache_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"row cache .*rows\.sqlite is damaged .*; delete the file, its rows are recomputed"
    ):
        RowCache(path)
    path.unlink()
    assert RowCache(path).get_many(["a"]) == {}


def test_damage_after_opening_is_detected_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    cache = RowCache(path)
    for file in tmp_path.iterdir():
        file.unlink()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ArtifactError, match="is damaged"):
        cache.get_many(["a"])
    with pytest.raises(ArtifactError, match="is damaged"):
        cache.put_many({"a": b"1"})


def test_a_missing_directory_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot be used .*; check its disk, permissions"):
        RowCache(tmp_path / "nowhere" / "rows.sqlite")


def test_connections_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recording(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recording)
    cache = RowCache(tmp_path / "rows.sqlite")
    cache.put_many({"a": b"1"})
    cache.get_many(["a"])
    assert len(opened) == 3
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_content_keys_distinguish_their_parts() -> None:
    keys = [
        content_key("a", "b"),
        content_key("ab"),
        content_key("a", "b", None),
        content_key("b", "a"),
        content_key(["a", "b"]),
        content_key("a", 1),
        content_key("a", "1"),
    ]
    assert len(set(keys)) == len(keys)
    assert content_key({"x": 1, "y": 2}) == content_key({"y": 2, "x": 1})


@given(st.text(), st.text())
def test_content_keys_are_the_same_for_the_same_text_only(left: str, right: str) -> None:
    assert (content_key(left, 1.0) == content_key(right, 1.0)) == (left == right)
