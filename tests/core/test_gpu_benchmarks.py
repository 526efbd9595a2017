"""What a GPU machine is asked: a machine with torch and its libraries, and without Dagster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize("module", ["gpu", "grpo_step", "sft_step", "reward_backbones", "memory_plan"])
def test_measurements_on_a_gpu_need_no_dagster(module: str, tmp_path: Path) -> None:
    for name in ("dagster", "dagster_pipes"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this machine')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--help"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout


def test_an_unknown_part_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "dmeo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "dmeo: no such part; there are demo, grpo_step, reward_backbones, memory_plan" in done.stderr
