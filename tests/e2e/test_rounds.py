"""Two rounds on tiny models, from the prompts to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config
from drirl_core.graph.build import build, run_all
from drirl_core.graph.plan import plan
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import Artifact
from drirl_core.store.tables import read_table
from drirl_core.testing import RecordingReporter, tiny_config

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {"rewards.rounds": 2, "policy.validation_prompts": 2, "demonstrations.quota": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    return tiny_config(folder, SETTINGS)


@pytest.fixture(scope="module")
def made(config: Config) -> dict[str, Artifact]:
    return run_all(Project(config), SilentReporter())


def test_every_asset_of_two_rounds_is_made_and_a_second_run_makes_none(
    config: Config, made: dict[str, Artifact]
) -> None:
    project = Project(config)
    assert set(made) == set(project.graph.nodes)
    assert {"round_1_policy", "round_1_reward_model_helpful", "round_1_completion_pool_insult"} <= set(made)
    for artifact in made.values():
        project.store.verify(artifact)
    for name, node in project.graph.nodes.items():
        table = STAGES[node.stage].table
        if table and name.startswith("round"):
            assert list(read_table(made[name].path / table.file)[0]) == list(table.columns)
    assert plan(project).up_to_date


def test_the_final_rewards_are_learned_on_the_pools_of_both_rounds(made: dict[str, Artifact]) -> None:
    rows = read_table(made["reward_model_insult"].path / "rewards.parquet")
    first = read_table(made["round_1_reward_model_insult"].path / "rewards.parquet")
    pool = read_table(made["round_1_completion_pool_insult"].path / "completions.parquet")
    assert {row["policy"] for row in rows} - {row["policy"] for row in first} == {"round_1"}
    assert len(rows) - len(first) == len(pool) == 2 * len({row["prompt_id"] for row in pool})
    assert made["reward_model_insult"].manifest["inputs"]["round_1_completion_pool_insult"] == (
        made["round_1_completion_pool_insult"].version
    )


def test_the_report_shows_both_rounds(made: dict[str, Artifact]) -> None:
    page = (made["report"].path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Rounds</h3>" in page
    rounds = json.loads((made["report"].path / "summary.json").read_text())["rounds"]
    assert [row["round"] for row in rounds] == ["round 1", "round 2, final"]
    assert rounds[0]["chosen"]["step"] == 2  # the last one
    assert rounds[0]["sampled"]["unsafe"]["n"] > 0
    assert rounds[1]["learned_on"] == ["base", "sft", "round_1"]


def test_one_round_has_the_rewards_that_two_begin_with(folder: Path, made: dict[str, Artifact]) -> None:
    """To the byte; what comes before the rewards is reused."""
    project, reporter = Project(tiny_config(folder, {**SETTINGS, "rewards.rounds": 1})), RecordingReporter()
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    for node in project.graph.nodes.values():
        if node.stage in ("prompt_pool", "dataset", "sft_checkpoint", "completion_pool"):
            artifact, reused, _ = build(node, project, versions, reporter)
            versions[node.name] = artifact.version
            assert reused, node.name
    artifact, reused, _ = build(project.graph.nodes["reward_model_insult"], project, versions, reporter)
    assert not reused
    first = made["round_1_reward_model_insult"].path
    for file in ("model.safetensors", "rewards.parquet", "metrics.json"):
        assert (artifact.path / file).read_bytes() == (first / file).read_bytes(), file
