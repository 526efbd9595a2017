"""Digests of large files: what was read once is read again only when the file changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drirl_core.models import digests
from drirl_core.models.digests import file_digest, model_digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what is hashed; every file counts as large and as old enough to be kept."""
    seen: list[str] = []
    plain = digests.hash_file

    def counted(file: Path) -> str:
        seen.append(file.name)
        return plain(file)

    monkeypatch.setattr(digests, "hash_file", counted)
    monkeypatch.setattr(digests, "KEPT_BYTES", 0)
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    return seen


def forget() -> None:
    digests.kept_digest.cache_clear()  # as another process


def test_an_unchanged_file_is_read_once_by_all_processes(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    forget()
    assert file_digest(file, tmp_path / "cache") == first
    assert reads == ["model.safetensors"]


def test_the_content_decides_and_not_the_times(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    os.utime(file, ns=(1, 1))
    assert file_digest(file, tmp_path / "cache") == first
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))  # a copy that keeps its times
    forget()
    assert file_digest(file, tmp_path / "cache") != first
    assert len(reads) == 3


def test_of_a_file_written_just_now_nothing_is_kept(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 60.0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    file_digest(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    for note in (tmp_path / "cache" / digests.FOLDER).iterdir():
        note.write_text("{")
    forget()
    assert file_digest(file, tmp_path / "cache") == first
    (tmp_path / "no_folder").write_text("")
    assert file_digest(file, tmp_path / "no_folder") == first


def test_weights_of_the_modules_of_an_encoder_count(tmp_path: Path) -> None:
    (tmp_path / "model" / "2_Dense").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"a")
    (tmp_path / "model" / "2_Dense" / "model.safetensors").write_bytes(b"b")
    before = model_digest(tmp_path / "model", tmp_path / "cache")
    (tmp_path / "model" / "2_Dense" / "model.safetensors").write_bytes(b"c")
    assert model_digest(tmp_path / "model", tmp_path / "cache") != before
    assert model_digest(tmp_path / "nowhere", tmp_path / "cache") == ""
