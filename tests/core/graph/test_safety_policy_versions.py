"""What the safety policy makes stale: what was written, judged or shown by the text of a category, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, load_config, resolved
from drirl_core.errors import ConfigError
from drirl_core.graph.exclusion import deciding_inputs
from drirl_core.graph.layout import build_graph
from drirl_core.graph.plan import plan
from drirl_core.graph.reasons import Cause
from drirl_core.graph.versions import code_version, named_contents, source_version
from drirl_core.preflight import find_problems
from drirl_core.project import Project
from drirl_core.store.artifacts import fingerprint

RULES = {"insult": "No mockery.", "physical_harm": "No wounds."}
ENDPOINT = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "writer"}
JUDGE = {"benchmarks.judge": "llm", "benchmarks.llm.url": "http://127.0.0.1:1/v1", "benchmarks.llm.model": "grader"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")


def _config(folder: Path, rules: dict[str, str] | None, **settings: Any) -> Config:
    changes: dict[str, Any] = {name.replace("__", "."): value for name, value in settings.items()}
    if rules is not None:
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        changes["demonstrations.safety_policy"] = str(folder / "rules.yaml")
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n", encoding="utf-8"
    )
    return load_config(file, changes)


def _versions(config: Config) -> dict[str, str]:
    return {name: code_version(node, config) for name, node in build_graph(config).nodes.items()}


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_a_text_of_one_category_decides_its_demonstrations_and_the_page(tmp_path: Path) -> None:
    def versions(rules: dict[str, str] | None) -> dict[str, str]:
        return _versions(_config(tmp_path, rules, demonstrations__demonstrator=ENDPOINT))

    none, first = versions(None), versions(RULES)
    assert _changed(none, first) == {"safety_dataset_insult", "safety_dataset_physical_harm", "report"}
    edited = versions({**RULES, "insult": "No mockery, not even as a joke."})
    assert _changed(first, edited) == {"safety_dataset_insult", "report"}
    assert _changed(first, versions({**RULES, "insult": " No mockery.\n"})) == set()  # white space around it
    assert _changed(first, versions({"insult": RULES["insult"]})) == {"safety_dataset_physical_harm", "report"}


def test_where_no_model_reads_it_only_the_page_shows_it(tmp_path: Path) -> None:
    """Demonstrations of a file and the rules judge: nothing that the demo makes gets another version."""
    assert _changed(_versions(_config(tmp_path, None)), _versions(_config(tmp_path, RULES))) == {"report"}


def test_a_judging_model_reads_every_text(tmp_path: Path) -> None:
    before = _versions(_config(tmp_path, RULES, **JUDGE))
    after = _versions(_config(tmp_path, {**RULES, "insult": "None."}, **JUDGE))
    assert _changed(before, after) == {"benchmark_embedded", "report"}
    second = {**JUDGE, "benchmarks.judge": "rules", "benchmarks.second_judge": "llm"}
    assert "benchmark_embedded" in _changed(
        _versions(_config(tmp_path, None, **second)), _versions(_config(tmp_path, RULES, **second))
    )


def test_where_the_file_lies_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first, second = (
        _config(tmp_path, RULES, demonstrations__demonstrator=ENDPOINT),
        _config(tmp_path / "elsewhere", RULES, demonstrations__demonstrator=ENDPOINT),
    )
    assert _changed(_versions(first), _versions(second)) == set()


def test_a_bad_file_is_refused_before_anything_is_planned(tmp_path: Path) -> None:
    config = _config(tmp_path, {"insluts": "No."}, demonstrations__demonstrator=ENDPOINT)
    with pytest.raises(ConfigError, match="unknown category 'insluts'; did you mean 'insult'"):
        plan(Project(config))
    assert plan(Project(config), ["prompt_pool"]).pending  # which does not read it
    assert any("unknown category 'insluts'" in problem for problem in find_problems(Project(config)))


def _publish_all(project: Project) -> None:
    """Publish an artifact for every asset, as a run would name them."""
    store, graph = project.store, project.graph
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    for node in graph.nodes.values():
        inputs, code = deciding_inputs(node, versions, project), code_version(node, project.config)
        key = fingerprint(node.name, code, inputs)
        with store.building(node.name, key) as workspace:
            (workspace.out / "rows").write_text(node.name)
            details = {
                "metadata": {},
                "inputs": inputs,
                "code_version": code,
                "contents": named_contents(node, project.config),
                "config": resolved(project.config),
            }
            versions[node.name] = store.publish(node.name, key, workspace, details=details).version


def test_editing_one_text_makes_only_that_category_stale_with_what_follows(tmp_path: Path) -> None:
    project = Project(_config(tmp_path, RULES, demonstrations__demonstrator=ENDPOINT))
    _publish_all(project)
    assert plan(project).up_to_date
    edited = Project(_config(tmp_path, {**RULES, "insult": "None at all."}, demonstrations__demonstrator=ENDPOINT))
    found = plan(edited)
    assert {name for name, asset in found.assets.items() if asset.state == "will_run"} == {
        "safety_dataset_insult",
        "report",
    }
    stale = found.assets["safety_dataset_insult"]
    assert [(cause.kind, cause.what) for cause in stale.causes] == [("content", "safety policy of insult")]
    assert stale.why == "safety policy of insult changed"
    kept = {name for name, asset in found.assets.items() if not asset.pending}
    others = {name for name in project.graph.nodes if name.startswith("safety_dataset_")} - {"safety_dataset_insult"}
    assert {"prompt_pool", *others} <= kept
    downstream = {"safety_dataset_insult"}
    for node in project.graph.nodes.values():
        if downstream & set(node.inputs):
            downstream.add(node.name)
    assert set(project.graph.nodes) - kept == downstream


def test_a_first_text_is_named_as_the_reason(tmp_path: Path) -> None:
    project = Project(_config(tmp_path, {"insult": "No."}, demonstrations__demonstrator=ENDPOINT))
    _publish_all(project)
    found = plan(Project(_config(tmp_path, RULES, demonstrations__demonstrator=ENDPOINT)))
    assert found.assets["safety_dataset_physical_harm"].why == "safety policy of physical_harm changed"
    assert isinstance(found.assets["safety_dataset_physical_harm"].causes[0], Cause)
