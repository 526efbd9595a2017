"""Prompts that no demonstration covers: counted before a run, in the log, and in a check."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataset_inputs import DatasetInputs, demonstrations, jsonl, pool_row, prompt

from drirl_core.checks.asking import rules_of
from drirl_core.checks.verdicts import judge
from drirl_core.demonstrations.coverage import expected, read_coverage, report_lines, warnings
from drirl_core.demonstrations.stage import build_dataset
from drirl_core.errors import DataError
from drirl_core.project import Project
from drirl_core.report.data_sections import coverage_text


def _project(folder: Path, prompts: list[dict[str, Any]], written: list[dict[str, Any]], **settings: Any) -> Project:
    jsonl(folder / "p.jsonl", prompts)
    jsonl(folder / "d.jsonl", written)
    (folder / "taxonomy.yaml").write_text("categories: [insult, mental_health]\n", encoding="utf-8")
    content = {
        "models": {"policy": "hf:a", "encoder": "hf:b"},
        "root": str(folder / "artifacts"),
        "prompts": {"taxonomy": "taxonomy.yaml", "sources": [{"name": "mine", "path": "p.jsonl"}]},
        "demonstrations": {"demonstrator": {"source": {"name": "written", "path": "d.jsonl"}}, **settings},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return Project.load(folder / "run.yaml")


def _prompts(*keys: object) -> list[dict[str, Any]]:
    return [{"prompt": prompt(key), "category": "insult"} for key in keys]


def test_own_prompts_without_a_demonstration_are_counted_before_anything_is_built(tmp_path: Path) -> None:
    """Ten prompts, one of them twice and one unreadable; four have a demonstration."""
    rows = [*_prompts(*range(10)), *_prompts(0), {"prompt": "", "category": "insult"}]
    project = _project(tmp_path, rows, demonstrations(*range(4), "elsewhere"))
    (found,) = read_coverage(project.config)
    assert (found.source, found.prompts, found.uncovered, found.first) == ("mine", 10, 6, prompt(4))
    (said,) = warnings(project.config, [found])
    assert said.startswith("6 of the 10 prompts of mine have no demonstration in written (")
    assert "they are not used, and nothing takes their place" in said
    assert "demonstrations.demonstrator.kind: model or endpoint" in said
    assert expected(project, {}) == [said]


def test_shipped_demonstrations_cover_no_prompt_of_ones_own(tmp_path: Path) -> None:
    project = _project(tmp_path, _prompts(*range(5)), [], quota=10)
    config = project.config
    shipped = dataclasses.replace(config.demonstrations.demonstrator.source, name="demonstrations", path="embedded")
    demonstrator = dataclasses.replace(config.demonstrations.demonstrator, source=shipped)
    config = dataclasses.replace(
        config, demonstrations=dataclasses.replace(config.demonstrations, demonstrator=demonstrator)
    )
    (found,) = read_coverage(config)
    assert (found.prompts, found.uncovered) == (5, 5)
    (said,) = warnings(config, [found])
    assert "in demonstrations (the shipped ones): they are not used, and prompts of that file fill the quota" in said


def test_covered_prompts_shipped_ones_and_a_model_need_no_warning(tmp_path: Path) -> None:
    project = _project(tmp_path, _prompts(*range(3)), demonstrations(*range(3)))
    assert warnings(project.config, read_coverage(project.config)) == []
    model = _project(tmp_path, _prompts(1), [], demonstrator={"kind": "model", "model": "hf:a/b"})
    assert read_coverage(model.config) == []
    (tmp_path / "plain.yaml").write_text("models: {policy: 'hf:a', encoder: 'hf:b'}\n", encoding="utf-8")
    assert read_coverage(Project.load(tmp_path / "plain.yaml").config) == []


def test_a_file_of_demonstrations_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    project = _project(tmp_path, _prompts(1), [{"question": "a", "reply": "b"}])
    with pytest.raises(DataError, match=r"source written: .* has no column 'prompt'"):
        read_coverage(project.config)


def test_the_log_of_a_data_set_names_them() -> None:
    counts = {"without_demonstration": 3, "pool_prompts": 12, "repeated_answers": 2}
    missing, repeated = report_lines("insult", counts)
    assert missing.startswith("3 of 12 insult prompts of the pool have no demonstration and are not used")
    assert repeated == "insult: 2 answers repeat another one word for word"
    assert report_lines("insult", {"without_demonstration": 0, "pool_prompts": 12}) == []


def test_the_check_warns_and_its_bound_allows_a_share(tmp_path: Path) -> None:
    """Three of twelve prompts have none: a quarter."""
    stage_inputs = DatasetInputs(
        tmp_path, pool=[pool_row(prompt(key)) for key in range(12)], written=demonstrations(*range(9))
    )
    context = stage_inputs.context("insult", quota=0)
    build_dataset(context)
    rule = next(rule for rule in rules_of("dataset") if rule.name == "prompts_demonstrated")
    assert not rule.blocking
    for bound, passes in ((0.0, False), (0.2, False), (0.25, True)):
        config = dataclasses.replace(
            context.config, checks=dataclasses.replace(context.config.checks, max_without_demonstration=bound)
        )
        project = Project(config)
        found = judge(rule, context.out, project, project.graph.nodes["safety_dataset_insult"])
        assert found.passed is passes
        assert found.description == "3 of 12 prompts of the pool have no demonstration and are not used"
        assert found.metadata["share_without_demonstration"] == 0.25
    (context.out / "counts.json").unlink()  # as harmless rows, and data sets of a stage of one's own
    assert judge(rule, context.out, project, project.graph.nodes["helpful_dataset"]).passed


def test_the_report_says_how_many_were_not_used(tmp_path: Path) -> None:
    for name, missing in (("insult", 3), ("mental_health", 0)):
        (tmp_path / name).mkdir()
        counts = {"pool_prompts": 12, "without_demonstration": missing, "fill_up": 4}
        (tmp_path / name / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    folders = {name: tmp_path / name for name in ("insult", "mental_health")}
    assert coverage_text(folders) == (
        " 3 of 24 prompts have no demonstration and were not used (insult 3); 8 rows have prompts that came with the "
        "demonstrations."
    )
    assert coverage_text({"mental_health": folders["mental_health"]}) == ""
    assert coverage_text({"gone": tmp_path / "gone"}) == ""
