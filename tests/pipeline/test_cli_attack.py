"""`drirl attack`: what it refuses before a model loads, and what it says of an attack on a tiny random model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.main import app

LIBRARY = importlib.util.find_spec("pyrit") is not None


@pytest.fixture
def config(policy_config: Callable[..., Path]) -> Path:
    return policy_config({"dtype": "float32"}, benchmarks={"max_new_tokens": 4, "resamples": 100})


def drirl(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_place_is_needed(config: Path) -> None:
    shown = drirl("attack", "base", config)
    assert shown.exit_code == 1
    assert "say where the attacked suite is to be written, --out FOLDER" in shown.output


@pytest.mark.skipif(LIBRARY, reason="the extra attacks is installed")
def test_without_the_library_the_extra_is_named(config: Path, tmp_path: Path) -> None:
    shown = drirl("attack", "base", config, "--out", tmp_path / "attacked")
    assert shown.exit_code == 1
    assert 'pip install -c constraints.txt "drirl[attacks]"' in shown.output
    assert not (tmp_path / "attacked").exists()


@pytest.mark.long
@pytest.mark.skipif(not LIBRARY, reason="the extra attacks is not installed")
def test_an_attack_is_a_suite_that_can_be_evaluated(config: Path, tmp_path: Path) -> None:
    place = tmp_path / "attacked"
    shown = drirl(
        "attack",
        "base",
        config,
        "--out",
        place,
        "--limit",
        "2",
        "--steps",
        "2",
        "--candidates",
        "4",
        "--target",
        "Sure",
    )
    assert shown.exit_code == 0, shown.output
    assert f"2 attacked prompts are in {place}" in shown.stdout
    assert f"drirl eval base {config} --suite {place}" in shown.stdout
    assert "prompt 2 of 2: loss of the target" in shown.stderr
    measured = drirl("eval", "base", config, "--suite", place)
    assert measured.exit_code == 0, measured.output
    assert "2 prompts" in measured.stdout
