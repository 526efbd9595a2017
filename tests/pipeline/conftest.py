"""Shared fixtures: a Dagster home and a configuration of stub stages, below the directory of the test."""

import os
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

for path in (Path(__file__).parent, Path(__file__).parents[1] / "core", Path(__file__).parents[2]):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

import stub_stages  # noqa: E402
from paths import FOLDER, ROOT  # noqa: E402

from drirl_core.graph.stages import STAGES  # noqa: E402
from drirl_core.testing import make_tiny_policy  # noqa: E402
from pipeline.instance.settings import load  # noqa: E402
from pipeline.running import launch  # noqa: E402


@pytest.fixture
def stubbed(monkeypatch):
    """Stub stages in this process and in the worker, and retries without delay."""
    for name in list(STAGES):
        monkeypatch.setitem(STAGES, name, STAGES[name])
    stub_stages.install()
    monkeypatch.setattr(launch, "WORKER", "stub_worker")
    monkeypatch.setattr(launch, "RETRY_DELAY_S", 0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])))


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory):
    """A Dagster home with the project's settings; its databases are created once for all tests."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(folder)) as made:
        assert made.get_runs() == []
        assert made.get_latest_materialization_event(dg.AssetKey("none")) is None
    return folder


@pytest.fixture
def home(empty_home, tmp_path, monkeypatch):
    """An empty Dagster home for one test."""
    folder = tmp_path / "home"
    shutil.copytree(empty_home, folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.fixture
def policy_config(tmp_path, monkeypatch):
    """Write the configuration of a tiny random policy on the CPU, with further settings of models and of the rest."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))

    def write(models=(), **settings):
        policy = {"policy": f"path:{make_tiny_policy(tmp_path / 'base')}", "encoder": f"path:{tmp_path}/none"}
        own = {"name": "tiny", "root": str(tmp_path / "store"), "models": {**policy, "device": "cpu", **dict(models)}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump({**own, **settings}), encoding="utf-8")
        return tmp_path / "own.yaml"

    return write


@pytest.fixture
def project(tmp_path):
    """A project of stub stages with two harm categories."""
    return load(stub_stages.write_settings(tmp_path))


@pytest.fixture
def config(project):
    """The configuration of that project."""
    return project.config


@pytest.fixture
def instance():
    """An instance that lives as long as the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral
