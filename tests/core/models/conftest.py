"""What the tests of models share: settings with a cache of their own, and a policy that a test may damage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from drirl_core.config import ModelsConfig


@pytest.fixture
def settings(tiny_models: ModelsConfig, tmp_path: Path) -> ModelsConfig:
    return dataclasses.replace(tiny_models, cache=str(tmp_path / "cache"))


@pytest.fixture
def copy(tiny_policy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_policy, tmp_path / "copy"))
