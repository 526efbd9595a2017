"""Any model on any suite: what is measured, what is refused before a model loads, and what is not sampled twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config, ModelsConfig, SuiteConfig, resolved
from drirl_core.errors import ArtifactError, ConfigError, DataError, ModelError
from drirl_core.graph.exclusion import deciding_inputs
from drirl_core.graph.plan import with_ancestors
from drirl_core.graph.planned import Named
from drirl_core.graph.versions import code_version, source_version
from drirl_core.project import Project
from drirl_core.runs.compare import compare
from drirl_core.runs.evaluation import Subject, evaluate, find_subject, find_suites
from drirl_core.runs.record import Result, Results
from drirl_core.store.artifacts import fingerprint
from drirl_core.store.tables import read_table
from drirl_core.testing import RecordingReporter, make_tiny_policy


@pytest.fixture
def project(tiny_models: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    from drirl_core.config import BenchmarksConfig

    monkeypatch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")
    suites = (SuiteConfig("embedded", limit=3), SuiteConfig("twins", limit=2))
    benchmarks = BenchmarksConfig(suites=suites, max_new_tokens=4, resamples=100)
    return Project(Config(models=tiny_models, root=str(tmp_path / "store"), benchmarks=benchmarks))


@pytest.fixture
def own_suite(tmp_path: Path) -> Path:
    folder = tmp_path / "Red team"
    folder.mkdir()
    (folder / "suite.yaml").write_text(
        "version: 1\nlicence: CC0\nhome: here\ngroups: {unsafe: {file: rows.jsonl, prompt: prompt}}\n"
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Insult number {n}."}) + "\n" for n in range(5)))
    return folder


# --------------------------------------------------------------------------------------------------------------- suites


def test_suites_are_found_by_name_by_place_and_by_folder(project: Project, own_suite: Path, tmp_path: Path) -> None:
    assert find_suites([], project) == list(project.config.benchmarks.suites)
    assert find_suites(["twins"], project) == [SuiteConfig("twins", limit=2)]
    assert find_suites(["twins"], project, limit=7) == [SuiteConfig("twins", limit=7)]
    assert find_suites([f"xstest={tmp_path}/x.csv"], project) == [SuiteConfig("xstest", str(tmp_path / "x.csv"))]
    assert find_suites([str(own_suite)], project) == [SuiteConfig("red_team", str(own_suite))]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["xstest"],
            r"--suite xstest: its files do not come with the package; get them from https://.*--suite xstest=PATH",
        ),
        (["twins", "twins"], r"--suite twins is given twice"),
        (["twinz"], r"--suite 'twinz' is no suite and no directory; did you mean 'twins'\?"),
        (["."], r"there is no suite\.yaml in it"),
        (["Big=x.csv"], r"use lower-case letters"),
    ],
)
def test_suites_that_cannot_be_used_say_why(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        find_suites(texts, project)


# -------------------------------------------------------------------------------------------------------------- subject


def test_references_and_directories_are_taken_as_they_are(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    named = Named(project)
    assert find_subject("hf:org/name@v1", named) == Subject("hf:org/name@v1", "hf:org/name@v1")
    assert find_subject("path:checkpoint", named) == Subject("path:checkpoint", f"path:{tmp_path}/checkpoint")
    assert find_subject("checkpoint", named) == Subject("checkpoint", tmp_path / "checkpoint")
    assert find_subject("base", named) == Subject("base", project.config.models.policy)


def _publish_policy(project: Project) -> dict[str, str]:
    """Publish stand-ins for all that the aligned policy is made from, and both policies as tiny models."""
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    for node in with_ancestors(project.graph, ["policy_checkpoint"]):
        inputs = deciding_inputs(node, versions, project)
        key = fingerprint(node.name, code_version(node, project.config), inputs)
        with project.store.building(node.name, key) as workspace:
            if node.name.endswith("_checkpoint"):
                make_tiny_policy(workspace.out, seed=len(versions))
            (workspace.out / "rows").write_text(node.name)
            details = {"metadata": {}, "inputs": inputs, "config": resolved(project.config)}
            versions[node.name] = project.store.publish(node.name, key, workspace, details=details).version
    return versions


def test_policies_are_those_of_the_configuration_or_of_a_recorded_result(project: Project) -> None:
    with pytest.raises(ArtifactError, match=r"there is no policy_checkpoint of this configuration .*`drirl run --only"):
        find_subject("dr_irl", Named(project))
    versions = _publish_policy(project)
    for text, asset in (
        ("dr_irl", "policy_checkpoint"),
        ("sft", "sft_checkpoint"),
        ("sft_checkpoint", "sft_checkpoint"),
    ):
        found = find_subject(text, Named(project))
        assert (found.label, found.inputs) == (text, {asset: versions[asset]})
        assert Path(found.reference).name == versions[asset]
    Results(project.store).record(Result("run", "placebo", versions={"policy_checkpoint": versions["sft_checkpoint"]}))
    with pytest.raises(ArtifactError, match=r"policy_checkpoint .* of the result placebo is gone"):
        find_subject("placebo", Named(project))
    Results(project.store).record(Result("run", "mine", versions={"policy_checkpoint": versions["policy_checkpoint"]}))
    assert find_subject("mine", Named(project)).inputs == {"policy_checkpoint": versions["policy_checkpoint"]}
    with pytest.raises(ArtifactError, match=r"no policy is promoted in "):
        find_subject("promoted", Named(project))


def test_a_baseline_without_weights_is_no_model(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"best_of_n has no weights of its own: it is the SFT start.*; give sft here"):
        find_subject("best_of_n", Named(project))


def test_an_unknown_model_lists_what_there_is(project: Project) -> None:
    with pytest.raises(ArtifactError, match=r"'dr_irrl' is neither a model reference .*; did you mean 'dr_irl'\?"):
        find_subject("dr_irrl", Named(project))


# ------------------------------------------------------------------------------------------------------------- evaluate


def test_an_evaluation_has_the_files_of_a_benchmark_with_one_policy(project: Project) -> None:
    reporter = RecordingReporter()
    made = evaluate(find_subject("base", Named(project)), find_suites([], project), project, reporter)
    assert list(made) == ["embedded", "twins"]
    rows = read_table(made["embedded"].path / "replies.parquet")
    assert len(rows) == 9  # three of each of three groups
    assert {row["policy"] for row in rows} == {"model"}
    results = json.loads((made["twins"].path / "results.json").read_text())
    assert results["groups"] == {"unsafe": 2, "safe_look_alike": 2}
    assert results["policies"] == ["model"]
    assert results["decoding"]["max_new_tokens"] == 4
    assert results["examination"][0]["name"] == "model"
    assert (made["twins"].path / "results.md").read_text().startswith("Suite twins")


def test_nothing_is_sampled_twice(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = find_subject("base", Named(project))
    first = evaluate(subject, find_suites(["twins"], project), project, RecordingReporter())
    reporter = RecordingReporter()
    again = evaluate(subject, find_suites(["twins"], project), project, reporter)
    assert again["twins"].version == first["twins"].version
    assert any("evaluated before with the same model and settings" in line for line in reporter.lines)
    more = RecordingReporter()
    evaluate(subject, find_suites(["twins"], project, limit=3), project, more)
    assert any("4 of 6 completions are reused; sampling 2" in line for line in more.lines)


def test_another_model_or_length_is_another_evaluation(project: Project, tmp_path: Path) -> None:
    import dataclasses

    suites = find_suites(["twins"], project)
    evaluate(find_subject("base", Named(project)), suites, project, RecordingReporter())
    other = make_tiny_policy(tmp_path / "other", seed=9)
    evaluate(find_subject(str(other), Named(project)), suites, project, RecordingReporter())
    benchmarks = dataclasses.replace(project.config.benchmarks, max_new_tokens=5)
    longer = Project(dataclasses.replace(project.config, benchmarks=benchmarks))
    evaluate(find_subject("base", Named(longer)), suites, longer, RecordingReporter())
    assert len({record["fingerprint"] for record in project.store.records("evaluation_twins")}) == 3


def test_what_cannot_be_used_is_named_before_a_model_loads(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr("drirl_core.models.sampling.rows.load_policy", lambda *a: loaded.append(a))
    missing = [SuiteConfig("twins"), SuiteConfig("xstest", str(tmp_path / "gone.csv"))]
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        evaluate(find_subject("base", Named(project)), missing, project, RecordingReporter())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a model directory"):
        evaluate(
            find_subject(str(tmp_path / "empty"), Named(project)),
            find_suites(["twins"], project),
            project,
            RecordingReporter(),
        )
    assert loaded == []


def test_two_evaluations_are_compared(project: Project, tmp_path: Path) -> None:
    results, suites = Results(project.store), find_suites(["twins"], project)
    entries = []
    for name, text in (("one", "base"), ("two", str(make_tiny_policy(tmp_path / "other", seed=9)))):
        made = evaluate(find_subject(text, Named(project)), suites, project, RecordingReporter())
        versions = {artifact.asset: artifact.version for artifact in made.values()}
        entries.append(results.record(Result("evaluation", name, versions=versions, subject=text)))
    found = compare(entries[0], entries[1], results)
    assert found["suites"][0]["common"] == 4
    assert {rate["n"] for rate in found["suites"][0]["rates"]} == {2}
