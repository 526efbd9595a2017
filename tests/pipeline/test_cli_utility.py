"""`drirl utility`: what it refuses before a model loads, and its table on a tiny random model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.main import app

HARNESS = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture
def config(policy_config: Callable[..., Path], tmp_path: Path) -> Path:
    rows = {"examples": [{"input": "Hi", "target_scores": {"Bye": 0, "Hello": 1}}]}
    (tmp_path / "harmless.json").write_text(json.dumps(rows), encoding="utf-8")
    return policy_config()


def drirl(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_task_without_a_place_is_refused(config: Path) -> None:
    shown = drirl("utility", "base", config, "--task", "hhh")
    assert shown.exit_code == 1
    assert "say where its rows are, --task hhh=PATH" in shown.output


@pytest.mark.skipif(HARNESS, reason="lm-eval is installed")
def test_without_the_harness_the_extra_is_named(config: Path) -> None:
    shown = drirl("utility", "base", config, "--task", f"hhh={config.parent}")
    assert shown.exit_code == 1
    assert 'pip install -c constraints.txt "drirl[utility]"' in shown.output


@pytest.mark.long
@pytest.mark.skipif(not HARNESS, reason="lm-eval is not installed")
def test_figures_are_shown_with_n_and_an_interval(config: Path) -> None:
    shown = drirl("utility", "base", config, "--task", f"hhh={config.parent}")
    assert shown.exit_code == 0, shown.output
    assert "harmless" in shown.stdout
    assert "chat template. Answers: " in shown.stdout
    document = json.loads(drirl("utility", "base", config, "--task", f"hhh={config.parent}", "--json").stdout)
    assert document["model"] == "base"
    assert {row["part"]: row["n"] for row in document["tasks"]["hhh"]["measures"]} == {"all": 1, "harmless": 1}
