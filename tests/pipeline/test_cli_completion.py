"""What the shell offers: assets, settings, categories, suites and results of the configuration on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from drirl_core.runs.record import Result, Results
from pipeline.cli.main import app
from pipeline.instance.settings import load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "taxonomy.yaml").write_text("categories: [theft, slander]\n")
    settings = {
        "root": str(tmp_path / "store"),
        "models": {"policy": "hf:a/policy", "encoder": "hf:a/encoder"},
        "prompts": {"taxonomy": "taxonomy.yaml"},
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def offered(*words: str | Path, incomplete: str = "") -> list[str]:
    """Return what the shell offers after some words, asked in the way of bash."""
    line = ["drirl", *map(str, words), incomplete]
    asked = {"_DRIRL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    answer = CliRunner().invoke(app, [], env=asked, prog_name="drirl")
    assert answer.exit_code == 0, answer.output
    return answer.output.split()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_only_offers_the_assets_of_the_configuration(config: Path, command: str) -> None:
    assert offered(command, config, "--only", incomplete="hardness_") == ["hardness_theft", "hardness_slander"]
    assert offered(command, config, "--only", incomplete="sta") == ["stale"]
    (config.parent / "other.yaml").write_text("categories: [arson]\n")
    words = ("--set", f"prompts.taxonomy={config.parent}/other.yaml", config, "--only")
    assert offered(command, *words, incomplete="hardness_") == ["hardness_arson"]
    assert "reward_model_insult" in offered(command, "--only", incomplete="reward_model_i")  # of the demo


@pytest.mark.parametrize(
    "command", ["run", "plan", "chat", "report", "promote", "promotions", "config", "eval", "score"]
)
def test_set_offers_dotted_settings_then_their_values(config: Path, command: str) -> None:
    assert offered(command, "--set", incomplete="hardness.com") == ["hardness.combine="]
    assert "hardness.combine=shuffled" in offered(command, "--set", incomplete="hardness.combine=")
    assert offered(command, "--set", incomplete="promotion.automatic=f") == ["promotion.automatic=false"]
    assert offered(command, "--set", incomplete="policy.lora.ra") == ["policy.lora.rank="]
    assert offered(command, "--set", incomplete="policy.steps=") == []
    assert offered(command, "--set", incomplete="base") == ["baselines="]  # `base` is filled in, never set


def test_category_offers_the_categories_of_the_configuration(config: Path) -> None:
    assert offered("score", config, "--category") == ["theft", "slander", "helpful"]
    assert offered("score", "--config", config, "--category", incomplete="th") == ["theft"]


def test_suites_and_results_are_offered(config: Path) -> None:
    Results(load(config).store).record(Result("run", "placebo", versions={"report": "1"}))
    assert "xstest" in offered("eval", "base", config, "--suite", incomplete="x")
    assert offered("report", config, "--run") == ["placebo"]
    assert offered("runs", config, "--forget", incomplete="p") == ["placebo"]


def test_a_configuration_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("models: [")
    assert offered("run", tmp_path / "broken.yaml", "--only") == []
    assert offered("eval", "base", tmp_path / "broken.yaml", "--suite") == []
