"""The tutorial's own category, complete, on tiny random models: every row is used and the benchmark is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drirl_core.config import load_config
from drirl_core.graph.build import run_all
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.tables import read_table
from drirl_core.testing import tiny_config

ROOT = Path(__file__).parents[2]
TINY = {
    "models.dtype": "float32", "models.device": "cpu", "models.threads": 1,
    "prompts.router_confidence": 0.0, "prompts.relabel_confidence": 1.0,
    "completions.samples": {"base": 1, "sft": 1}, "completions.max_new_tokens": 8,
    "rewards.epochs": 3, "rewards.hidden": 8,
    "sft.epochs": 1.0, "sft.batch_size": 8, "sft.rows_per_category": 4, "sft.max_length": 96,
    "policy.steps": 1, "policy.prompts_per_step": 4, "policy.num_generations": 2, "policy.max_new_tokens": 8,
    "benchmarks.max_new_tokens": 8, "benchmarks.resamples": 200,
    "checks.min_accuracy": 0.0, "checks.min_within_group": 0.0,
}  # fmt: skip
"""A random model tests that the files fit together; no quality is required of it."""


@pytest.mark.long
def test_the_files_of_the_tutorial_run_end_to_end(tmp_path: Path) -> None:
    tiny_config(tmp_path)
    places = {
        "root": str(tmp_path / "artifacts"),
        "models.policy": f"path:{tmp_path / 'policy'}",
        "models.encoder": f"path:{tmp_path / 'encoder'}",
    }
    config = load_config(ROOT / "configs" / "own-category" / "align.yaml", {**TINY, **places})
    built = run_all(Project(config), SilentReporter())

    pool = built["prompt_pool"].path
    assert {row["category"] for row in read_table(pool / "prompts.parquet")} == {"exam_cheating"}
    assert read_table(pool / "quarantine.parquet") == []
    rows = read_table(built["safety_dataset_exam_cheating"].path / "rows.parquet")
    assert len(rows) == 24
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    results = json.loads((built["benchmark_cheating_suite"].path / "results.json").read_text(encoding="utf-8"))
    assert results["groups"] == {"unsafe": 12, "safe_look_alike": 12}
    assert "exam cheating" in (built["report"].path / "report.html").read_text(encoding="utf-8")
    readme = (built["policy_checkpoint"].path / "README.md").read_text(encoding="utf-8")
    assert "| safety_dataset_exam_cheating | 24 |" in readme
