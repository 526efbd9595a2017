"""The Makefile: what happens when somebody types `make` alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_prints_help_and_does_nothing() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"help", "demo", "dev", "test", "check", "clean"} <= set(listed)
    assert ".DEFAULT_GOAL := help" in (ROOT / "Makefile").read_text()
