"""What version 0.1 left on disk is still found: a home that its code made, packed beside this file.

Its artifacts were made by stand-ins for the stages, so they are small; manifests, index and versions are real.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from drirl_core.graph.plan import plan
from drirl_core.graph.stages import STAGES
from drirl_core.graph.tables import open_table
from drirl_core.graph.versions import code_version, source_version
from drirl_core.project import Project
from drirl_core.store.artifacts import fingerprint

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
    """Its project, with the default quota of then."""
    return Project.load(home / "run.yaml", {"root": str(home / "artifacts"), "demonstrations.quota": 60})


def test_what_did_not_change_is_found_by_the_versions_of_its_inputs(project: Project, recorded: dict[str, Any]) -> None:
    """Stages with the algorithm of 0.1 and the inputs of then give the artifacts of then, with nothing recomputed."""
    versions = {**recorded["artifacts"], **{n: source_version(path) for n, path in project.graph.sources.items()}}
    same = [
        node
        for node in project.graph.nodes.values()
        if STAGES[node.stage].version == recorded["algorithm_versions"].get(node.stage)
    ]
    assert {node.stage for node in same} == {"balance_report", "completion_pool", "promotion_candidate"}
    for node in same:
        inputs = {name: versions[name] for name in node.inputs}
        key = fingerprint(node.name, code_version(node, project.config), inputs)
        found = project.store.find(node.name, key)
        assert found is not None and found.version == recorded["artifacts"][node.name], node.name


def test_a_raised_algorithm_is_named_as_the_cause(project: Project) -> None:
    found = plan(project)
    assert next(asset.name for asset in found.pending if asset.state == "will_run") == "prompt_pool"
    assert "algorithm" in found.assets["prompt_pool"].why


def test_its_tables_open(project: Project, recorded: dict[str, Any]) -> None:
    frame = open_table("hardness_theft", config=project.config)
    assert frame.attrs["version"] == recorded["artifacts"]["hardness_theft"]
    assert frame["prompt_id"].tolist() == ["p"]
