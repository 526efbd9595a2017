"""A study whose assets are built beside each other, without Dagster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.testing import tiny_config

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


def run(file: Path, out: Path) -> tuple[str, list[dict[str, Any]]]:
    """Run the study; return what it printed and what it built."""
    command = [sys.executable, "-m", "benchmarks.study_side_by_side", str(file), "--out", str(out)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--workers", "2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (record,) = out.glob("built_*.json")
    return done.stdout, json.loads(record.read_text(encoding="utf-8"))["built"]


def test_cells_share_assets_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    """A learning rate of 1e30 gives weights that are not finite; the first cell and its seeds go on."""
    tiny_config(tmp_path)
    study = {
        "name": "side",
        "base": "smoke.yaml",
        "seeds": [0, 1],
        "settings": {"benchmarks.suites": [{"name": "embedded", "limit": 2}]},
        "cells": {"plain": {}, "broken": {"policy.learning_rate": 1e30}},
        "questions": [{"ask": "Is it better?", "first": "plain", "second": "plain/sft"}],
    }
    file = tmp_path / "side.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    said, built = run(file, tmp_path / "first")
    names = [row["asset"] for row in built]
    assert names.count("sft_checkpoint") == names.count("reward_model_helpful") == 1
    assert names.count("policy_checkpoint") == names.count("benchmark_embedded") == 2
    assert "FAILED policy_checkpoint of side-broken-s0" in said
    assert "no result of broken, seed 0: policy_checkpoint" in said
    page = (tmp_path / "first" / "study" / "study.html").read_text(encoding="utf-8")
    assert "Is it better?" in page
    said, again = run(file, tmp_path / "second")
    assert not any(row["seconds"] > 1 for row in again), again
