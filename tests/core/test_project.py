"""One project per command: the graph is laid out once, the store is opened once, and nothing makes its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import drirl_core
from drirl_core import project as module
from drirl_core.config import load_config
from drirl_core.project import Project

ROOT = Path(drirl_core.__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    file = tmp_path / "run.yaml"
    file.write_text("models: {policy: 'hf:a/policy', encoder: 'hf:a/encoder'}\nroot: results\n", encoding="utf-8")
    return Project.load(file, {"policy.steps": 3})


def test_a_project_is_loaded_as_its_configuration_is(project: Project, tmp_path: Path) -> None:
    assert project.config == load_config(tmp_path / "run.yaml", {"policy.steps": 3})
    assert project == Project(project.config)


def test_graph_and_store_are_made_on_first_use_and_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[object] = []
    plain = module.build_graph
    monkeypatch.setattr(module, "build_graph", lambda config: laid_out.append(config) or plain(config))
    assert laid_out == []
    assert project.graph is project.graph
    assert project.store is project.store
    assert laid_out == [project.config]


@pytest.mark.parametrize("called", ["build_graph", "ArtifactStore.of"])
def test_nothing_but_the_project_lays_out_a_graph_or_opens_a_store(called: str) -> None:
    places = [
        f"{file.relative_to(ROOT)}"
        for folder in ("drirl_core", "pipeline", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        if called in (text := file.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(called)
    ]
    assert places == ["drirl_core/project.py"]
