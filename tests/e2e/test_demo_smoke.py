"""The demo at reduced size on the real models; slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drirl_core.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[2]
REDUCED = {
    "demonstrations.quota": "8",
    "demonstrations.helpful_quota": "120",
    "sft.rows_per_category": "4",
    "sft.helpful_rows": "28",
    "sft.decision_prompts": "2",
    "sft.epochs": "1",
    "sft.validation_prompts": "4",
    "completions.samples": "{base: 1, sft: 0}",
    "completions.max_new_tokens": "12",
    "completions.helpful_prompts": "24",
    "rewards.epochs": "30",
    "checks.min_accuracy": "0.0",  # a handful of held-out pairs decides nothing
    "checks.min_within_group": "0.0",
    "baselines": "[dpo]",
    "dpo.epochs": "1",
    "dpo.helpful_share": "0",  # no completion of so few refuses a harmless prompt
    "dpo.validation_prompts": "4",
    "policy.steps": "2",
    "policy.prompts_per_step": "4",
    "policy.max_new_tokens": "12",
    "policy.lora.rank": "4",
    "policy.validation_prompts": "4",
    "benchmarks.max_new_tokens": "16",
    "benchmarks.suites": "[{name: embedded, limit: 6}]",
}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_runs_on_the_real_models(tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    changes = [
        part
        for key, value in {**REDUCED, "root": str(tmp_path / "artifacts")}.items()
        for part in ("--set", f"{key}={value}")
    ]
    line = [sys.executable, "-m", "pipeline.cli", "run", "configs/demo.yaml", *changes]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.latest("reward_model_insult") is not None  # two held-out prompts: too few to ask for an accuracy
    helpful = store.latest("reward_model_helpful")
    assert helpful is not None
    assert helpful.metadata["accuracy"] > 0.6
    benchmark = store.latest("benchmark_embedded")
    assert benchmark is not None
    results = json.loads((benchmark.path / "results.json").read_text(encoding="utf-8"))
    assert {row["policy"] for row in results["rates"]} == {"base", "sft", "dpo", "dr_irl"}
