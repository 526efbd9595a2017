"""`drirl plan --gpu`: the table, the JSON, and exit code 1 where a stage does not fit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from drirl_core.testing import tiny_config
from pipeline.cli.main import app


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    tiny_config(folder)
    return folder / "smoke.yaml"


def _plan(*words: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, words)])


def test_one_line_per_stage_a_total_and_a_next_step(file: Path) -> None:
    shown = _plan(file, "--gpu", "h100")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    named = [line.split()[0] for line in lines if "GiB" in line.split()[2:3]]
    assert named == [
        "sft_checkpoint", "completion_pool_*", "reward_model_*", "hardness_*", "policy_checkpoint",
        "reference_classifiers", "benchmark_embedded", "benchmark_twins",
    ]  # fmt: skip
    assert any(line.startswith("total") for line in lines)
    assert f"Next: drirl run {file}" in shown.output


def test_what_does_not_fit_is_refused_with_the_setting(file: Path) -> None:
    shown = _plan(file, "--gpu", "24GiB", "--set", "policy.prompts_per_step=200000", "--set", "policy.micro_batch=1")
    assert shown.exit_code == 1
    assert "Does not fit: policy_checkpoint needs" in shown.output.replace("\n", " ")
    assert "--set policy.prompts_per_step=" in shown.output


def test_json_has_the_plan_and_all_figures(file: Path) -> None:
    shown = _plan(file, "--gpu", "a100:2", "--json")
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.output)
    assert document["counts"]["will_run"] > 0
    assert document["gpu"]["gpu"]["name"] == "a100-80" and document["gpu"]["gpu"]["count"] == 2
    assert {stage["name"] for stage in document["gpu"]["stages"]} >= {"policy_checkpoint", "benchmark_twins"}


def test_an_unknown_card_is_an_error(file: Path) -> None:
    shown = _plan(file, "--gpu", "h1000")
    assert shown.exit_code == 1
    assert "is no known card" in shown.output.replace("\n", " ")
