"""What a configuration started from, and how it differs from that: shown to people, and deciding nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl_core.config import from_resolved, load_config, resolved, slice_hash
from drirl_core.errors import ConfigError

MODELS = "models: {policy: 'hf:a/policy', encoder: 'hf:a/encoder'}\n"


def _write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def _texts(file: Path, overrides: dict | None = None) -> list[str]:
    return [str(difference) for difference in load_config(file, overrides).base.differences]


def test_a_file_on_its_own_differs_from_itself_by_the_overrides_alone(tmp_path: Path) -> None:
    file = _write(tmp_path, "a.yaml", MODELS + "policy: {steps: 3}\n")
    assert load_config(file).base.file == str(file)
    assert _texts(file) == []
    assert _texts(file, {"policy.steps": 4, "seed": 2, "name": "x", "root": "elsewhere"}) == [
        "seed: 0 -> 2",
        "policy.steps: 3 -> 4",
    ]


def test_a_file_that_extends_another_differs_from_that_one(tmp_path: Path) -> None:
    _write(tmp_path, "first.yaml", MODELS)
    _write(tmp_path, "second.yaml", "extends: first.yaml\nseed: 1\n")
    file = _write(
        tmp_path, "third.yaml", "extends: second.yaml\nbenchmarks: {suites: [{name: embedded}, {name: twins}]}\n"
    )
    config = load_config(file, {"policy.steps": 24})  # its default, so no difference
    assert config.base.file == str(tmp_path / "second.yaml")
    assert [difference.setting for difference in config.base.differences] == ["benchmarks.suites[twins]"]
    assert config.base.differences[0].before == "(not there)"


def test_a_base_that_cannot_stand_alone_is_compared_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, "part.yaml", "policy: {steps: 5}\n")
    file = _write(tmp_path, "whole.yaml", f"extends: part.yaml\n{MODELS}policy: {{steps: 6}}\n")
    assert "policy.steps: 5 -> 6" in _texts(file)


def test_secrets_are_hidden(tmp_path: Path) -> None:
    file = _write(tmp_path, "a.yaml", MODELS)
    changes = {
        "demonstrations.demonstrator.kind": "endpoint",
        "demonstrations.demonstrator.model": "m",
        "demonstrations.demonstrator.url": "http://me:hunter2@host/v1",
    }
    shown = _texts(file, changes)
    assert "demonstrations.demonstrator.url:  -> http://(hidden)@host/v1" in shown
    assert "hunter2" not in str(shown)


def test_it_travels_with_the_resolved_configuration_and_decides_nothing(tmp_path: Path) -> None:
    plain = load_config(_write(tmp_path, "a.yaml", MODELS + "seed: 1\n"))
    _write(tmp_path, "zero.yaml", MODELS)
    extended = load_config(_write(tmp_path, "b.yaml", "extends: zero.yaml\nseed: 1\n"))
    assert from_resolved(resolved(extended)).base == extended.base != plain.base
    assert plain == extended
    sections = tuple(name for name in resolved(plain) if name != "base")
    assert slice_hash(plain, sections) == slice_hash(extended, sections)


def test_an_older_record_of_a_configuration_has_none(tmp_path: Path) -> None:
    data = resolved(load_config(_write(tmp_path, "a.yaml", MODELS)))
    del data["base"]
    assert from_resolved(data).base.differences == ()


@pytest.mark.parametrize("how", ["file", "override"])
def test_nobody_sets_it(tmp_path: Path, how: str) -> None:
    text = MODELS + ("base: {file: x}\n" if how == "file" else "")
    with pytest.raises(ConfigError, match=r"'base' is filled in when the file is read"):
        load_config(_write(tmp_path, "a.yaml", text), {"base.file": "x"} if how == "override" else None)
