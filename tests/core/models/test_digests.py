"""Digests of large files: a file is read again only when it changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drirl_core.models import digests
from drirl_core.models.digests import file_digest, model_digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what is hashed; every file counts as large and old enough for its digest to be stored."""
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
    digests.kept_digest.cache_clear()  # as in another process


def test_an_unchanged_file_is_read_once_for_all_processes(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    forget()
    assert file_digest(file, tmp_path / "cache") == first
    assert reads == ["model.safetensors"]


def test_the_digest_depends_on_the_content_not_on_the_times(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    os.utime(file, ns=(1, 1))
    assert file_digest(file, tmp_path / "cache") == first
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))  # a copy with the same times
    forget()
    assert file_digest(file, tmp_path / "cache") != first
    assert len(reads) == 3


def test_the_digest_of_a_file_written_just_now_is_not_stored(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 60.0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    file_digest(file, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_damaged_or_not_writable_only_costs_time(tmp_path: Path, reads: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_digest(file, tmp_path / "cache")
    for note in (tmp_path / "cache" / digests.FOLDER).iterdir():
        note.write_text("{")
    forget()
    assert file_digest(file, tmp_path / "cache") == first
    (tmp_path / "no_folder").write_text("")
    assert file_digest(file, tmp_path / "no_folder") == first


def test_the_digest_of_an_encoder_covers_the_weights_of_its_modules(tmp_path: Path) -> None:
    (tmp_path / "model" / "2_Dense").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"a")
    (tmp_path / "model" / "2_Dense" / "model.safetensors").write_bytes(b"b")
    before = model_digest(tmp_path / "model", tmp_path / "cache")
    (tmp_path / "model" / "2_Dense" / "model.safetensors").write_bytes(b"c")
    assert model_digest(tmp_path / "model", tmp_path / "cache") != before
    assert model_digest(tmp_path / "nowhere", tmp_path / "cache") == ""
