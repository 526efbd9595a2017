"""What version 0.1 left on disk is still found: a home that its code made, packed beside this file.

Its artifacts were made by stand-ins for the stages, so they are small; manifests, index and versions are real.
"""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from drirl_core.graph.plan import plan
from drirl_core.graph.stages import STAGES
from drirl_core.graph.tables import open_table
from drirl_core.project import Project

ARCHIVE = Path(__file__).with_name("home_0_1.tar.gz")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The unpacked home; elsewhere than where it was made."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def recorded(home: Path) -> dict[str, Any]:
    return json.loads((home / "recorded.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(home: Path) -> Project:
    return Project.load(home / "run.yaml", {"root": str(home / "artifacts")})


def test_a_run_made_before_the_move_is_up_to_date(
    project: Project, recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the algorithms of 0.1; raising one makes its assets stale, which is what its version is for."""
    for stage, version in recorded["algorithm_versions"].items():
        monkeypatch.setitem(STAGES, stage, dataclasses.replace(STAGES[stage], version=version))
    found = plan(project)
    assert {name: asset.version for name, asset in found.assets.items()} == recorded["artifacts"]
    assert found.up_to_date


def test_a_raised_algorithm_is_named_as_the_cause(project: Project) -> None:
    found = plan(project)
    assert next(asset.name for asset in found.pending if asset.state == "will_run") == "prompt_pool"
    assert "algorithm" in found.assets["prompt_pool"].why


def test_its_tables_open(project: Project, recorded: dict[str, Any]) -> None:
    frame = open_table("hardness_theft", config=project.config)
    assert frame.attrs["version"] == recorded["artifacts"]["hardness_theft"]
    assert frame["prompt_id"].tolist() == ["p"]
