"""Entries that are written once: of several writers one wins, and no reader sees a partial entry."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drirl_core.errors import ArtifactError
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.journal import Journal
from drirl_core.store.remote import UnreachableError

PLACES = ["directory", "memory", "file", "s3"]


@pytest.fixture(params=PLACES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    places = {
        "directory": tmp_path / "shared",
        "memory": f"memory://{uuid.uuid4().hex}",
        "file": f"file://{tmp_path / 'shared'}",
    }
    return str(places.get(request.param) or f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")


def _journal(root: str, machine: Path) -> Journal:
    return Journal(ArtifactStore(root, machine), "moves")


def test_every_machine_reads_the_entries_in_their_order(root: str, tmp_path: Path) -> None:
    here, there = (_journal(root, tmp_path / name) for name in ("here", "there"))
    assert here.read() == []
    texts = [f"entry {number} é" for number in range(1, 12)]
    for number, text in enumerate(texts, 1):
        assert (here if number % 2 else there).write(number, text)
    assert [text.decode() for text in here.read()] == [text.decode() for text in there.read()] == texts


def test_each_number_is_used_once(root: str, tmp_path: Path) -> None:
    here, there = (_journal(root, tmp_path / name) for name in ("here", "there"))
    assert here.write(1, "first")
    assert not there.write(1, "second")
    assert there.read() == [b"first"]


@pytest.mark.parametrize("root", ["directory", "file", "s3"], indirect=True)
def test_one_of_many_simultaneous_writers_wins(root: str, tmp_path: Path) -> None:
    writers = [_journal(root, tmp_path / str(number)) for number in range(8)]
    with ThreadPoolExecutor(len(writers)) as pool:
        won = list(pool.map(lambda numbered: numbered[1].write(1, f"writer {numbered[0]}"), enumerate(writers)))
    assert sum(won) == 1
    assert writers[0].read() == [f"writer {won.index(True)}".encode()]


def test_a_gap_is_an_error(root: str, tmp_path: Path) -> None:
    journal = _journal(root, tmp_path / "here")
    assert journal.write(1, "first")
    assert journal.write(3, "third")
    with pytest.raises(ArtifactError, match=r"000002\.json is missing among the entries of .*moves"):
        journal.read()


def test_a_writer_that_died_leaves_no_entry(tmp_path: Path) -> None:
    journal = _journal(str(tmp_path / "shared"), tmp_path)
    (tmp_path / "shared" / "moves").mkdir(parents=True)
    (tmp_path / "shared" / "moves" / ".000001.json.77-1.tmp").write_text('{"act')
    assert journal.read() == []
    assert journal.write(1, "first")
    assert journal.read() == [b"first"]


def test_a_store_that_cannot_be_written_is_an_error_not_a_lost_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    journal = _journal(f"memory://{uuid.uuid4().hex}", tmp_path)

    def down(*_args: object, **_settings: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", down)
    with pytest.raises(UnreachableError, match="cannot be written"):
        journal.write(1, "first")
    assert journal.read() == []


def test_a_lost_response_does_not_lose_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    journal, write = _journal(f"memory://{uuid.uuid4().hex}", tmp_path), MemoryFileSystem.pipe_file

    def cut(files: MemoryFileSystem, path: str, value: bytes, **settings: object) -> None:
        write(files, path, value, **settings)
        raise ConnectionError("connection reset")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", cut)
    assert journal.write(1, "first")
    assert journal.read() == [b"first"]
