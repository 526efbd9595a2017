"""What somebody adds below `pipeline/defs` is loaded, and the project alone is loaded the fast way."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from pipeline import definitions

ASSET = """import dagster as dg


@dg.asset
def notes(context: dg.AssetExecutionContext) -> dg.MaterializeResult: ...
"""
COMPONENT = """type: dagster.PythonScriptComponent

attributes:
  execution:
    path: update.py
  assets:
    - key: from_script
"""
"""What `dg scaffold defs` writes, with the attributes filled in that it leaves to people."""


@pytest.fixture
def project(tmp_path):
    """A copy of the project into which a test may write."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("drirl_core", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def _run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    environment.pop("DRIRL_CONFIG", None)
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _keys(project: Path) -> set[str]:
    code = (
        "import json; from pipeline import definitions; loaded = definitions.defs(); "
        "print(json.dumps([s.key.to_user_string() for s in loaded.resolve_all_asset_specs()]))"
    )
    return set(json.loads(_run(project, sys.executable, "-c", code).splitlines()[-1]))


@pytest.fixture(scope="module")
def own_keys():
    """The assets of the project alone."""
    return {spec.key.to_user_string() for spec in definitions.defs().resolve_all_asset_specs()}


def test_the_project_alone_holds_nothing_that_needs_dagsters_own_loader(monkeypatch):
    def slow(**_):
        raise AssertionError("Dagster's own loader was used")

    monkeypatch.setattr("dagster.load_from_defs_folder", slow)

    assert definitions.added_files() == []
    assert definitions.load_folder().resolve_asset_graph().get_all_asset_keys()


def test_an_asset_file_and_a_component_folder_are_loaded_beside_the_projects_assets(project, own_keys):
    folder = project / "pipeline" / "defs"
    (folder / "own").mkdir()
    (folder / "own" / "notes.py").write_text(ASSET)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "defs.yaml").write_text(COMPONENT)
    (folder / "scripts" / "update.py").write_text("print('nothing to do')\n")

    assert _keys(project) == own_keys | {"notes", "from_script"}


@pytest.mark.skipif(importlib.util.find_spec("dagster_dg_cli") is None, reason="dagster-dg-cli is not installed")
def test_dg_scaffolds_files_of_this_form(project):
    code = (
        "from dagster_dg_cli.cli import cli\n"
        "for words in (['dagster.asset', 'own/notes.py'], ['dagster.PythonScriptComponent', 'scripts']):\n"
        "    cli(['scaffold', 'defs', *words], standalone_mode=False)"
    )
    _run(project, sys.executable, "-c", code)
    folder = project / "pipeline" / "defs"

    assert (folder / "own" / "notes.py").read_text() == ASSET
    assert (folder / "scripts" / "defs.yaml").read_text().split() == [*COMPONENT.split()[:3], "{}"]
    assert os.listdir(folder / "scripts") == ["defs.yaml"]
