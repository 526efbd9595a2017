"""Results under their own names: what is recorded, found, kept and forgotten."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import load_config, resolved
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.graph.layout import build_graph
from drirl_core.retention import named, place_of
from drirl_core.runs.record import RUNS, Result, Results, check_name, pinned, result_of_run
from drirl_core.store.artifacts import ArtifactStore


def _result(name: str = "", version: str = "1", **facts: Any) -> Result:
    return Result("run", name, "demo", "demo.yaml", **{"versions": {"report": version}, "at": "now", **facts})


@pytest.fixture
def results(store: ArtifactStore) -> Results:
    return Results(store)


def test_nothing_is_recorded_at_first(results: Results) -> None:
    assert results.history() == results.present() == results.named() == []
    with pytest.raises(ArtifactError, match=r"no result is recorded under .* yet; `drirl run --name NAME` records one"):
        results.find("demo")


def test_a_name_points_to_the_last_result_that_has_it(results: Results) -> None:
    first, second = results.record(_result("placebo", "1")), results.record(_result("placebo", "2"))
    assert results.find("placebo") == second != first
    assert results.named() == [second]
    assert results.history() == [first, second]
    assert pinned(results.named()) == {("report", "2")}


def test_the_same_result_is_recorded_once_and_keeps_its_date(results: Results) -> None:
    first = results.record(_result("a", at="monday"))
    assert results.record(_result("a", at="tuesday")) == first
    assert len(results.history()) == 1
    assert results.record(_result("b", at="tuesday")).at == "tuesday"  # under another name as well


def test_a_name_that_went_back_to_an_earlier_result_is_recorded_again(results: Results) -> None:
    for version in ("1", "2", "1"):
        results.record(_result("a", version))
    assert [entry.versions["report"] for entry in results.history()] == ["1", "2", "1"]
    assert results.find("a").versions == {"report": "1"}


def test_a_plain_run_is_found_by_the_name_of_its_configuration_and_an_experiment_is_not(results: Results) -> None:
    plain = results.record(_result(version="1"))
    experiment = results.record(_result(version="2", plain=False))
    assert results.find("demo") == plain
    assert results.find(experiment.id) == results.find(experiment.id[:5]) == experiment
    assert results.record(_result("demo", "3")) == results.find("demo")  # a name comes first


def test_an_evaluation_is_found_by_what_it_measured(results: Results) -> None:
    made = results.record(dataclasses.replace(_result(version="1"), kind="evaluation", subject="hf:org/name"))
    assert results.find("hf:org/name") == made
    assert made.alias == "hf:org/name"


def test_unknown_names_list_what_there_is(results: Results) -> None:
    results.record(_result("placebo"))
    with pytest.raises(ArtifactError, match=r"no result is called 'placebos'; did you mean 'placebo'\? Known: placebo"):
        results.find("placebos")


def test_a_forgotten_name_is_no_longer_listed_or_kept(results: Results, store: ArtifactStore) -> None:
    results.record(_result("a", "1"))
    results.record(_result("b", "2"))
    assert results.forget("a").versions == {"report": "1"}
    assert [entry.name for entry in results.present()] == ["b"]
    assert named(store) == {("report", "2")}
    with pytest.raises(ArtifactError, match=r"no result is called 'a'; Known: b"):
        results.forget("a")
    results.record(_result("a", "1"))
    assert results.find("a").versions == {"report": "1"}


@pytest.mark.parametrize("name", ["", "placebo", "A.b-c_9", "x" * 63])
def test_names_that_can_be_used(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a b", "use letters, digits"),
        ("-a", "beginning with a letter or digit"),
        ("a/b", "use letters, digits"),
        ("hf:a", "use letters, digits"),
        ("x" * 64, "at most 63 characters"),
        ("base", "means something else"),
        ("dr_irl", "means something else"),
        ("policy_checkpoint", "means something else"),
    ],
)
def test_names_that_mean_something_else_or_cannot_be_typed_are_refused(results: Results, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        results.record(_result(name))
    assert results.history() == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"kind": "run"}', '{"name": "a", "kind": "run", "more": 1}'])
def test_a_damaged_record_is_an_error_and_nothing_is_deleted(
    results: Results, store: ArtifactStore, damage: str
) -> None:
    results.record(_result("a"))
    (store.root / RUNS / "000001.json").write_text(damage)
    with pytest.raises(ArtifactError, match=r"runs cannot be read .*; restore it from a backup"):
        results.present()
    with pytest.raises(ArtifactError, match=r"nothing is deleted, because it is not known which results have a name"):
        named(store)


def test_an_entry_is_complete_or_not_there(results: Results, store: ArtifactStore) -> None:
    results.record(_result("a"))
    assert [file.name for file in (store.root / RUNS).iterdir()] == ["000001.json"]
    assert json.loads((store.root / RUNS / "000001.json").read_text())["name"] == "a"


def test_machines_that_share_a_store_share_its_names(host: Callable[[str], ArtifactStore]) -> None:
    Results(host("a")).record(_result("placebo", "1"))
    Results(host("b")).record(_result("placebo", "2"))
    assert Results(host("a")).find("placebo").versions == {"report": "2"}
    assert named(host("c")) == {("report", "2")}
    assert place_of(host("a")).take_stock(0.0).artifacts == {}  # the record is no artifact, and no leftover
    assert place_of(host("a")).take_stock(0.0).leftovers == ()


def test_a_lost_artifact_of_a_result_says_what_keeps_results(results: Results, store: ArtifactStore) -> None:
    entry = results.record(_result())
    with pytest.raises(ArtifactError, match=r"report 1 of the result .* is gone .*only named results are kept"):
        results.open(entry, "report")
    with pytest.raises(ArtifactError, match=r"holds no benchmark_embedded; it holds report"):
        results.open(entry, "benchmark_embedded")


def test_a_result_knows_its_settings_and_what_differs_from_the_base_file(tmp_path: Path) -> None:
    models = "models: {policy: 'hf:a/p', encoder: 'hf:a/e'}\n"
    (tmp_path / "base.yaml").write_text(f"name: basic\n{models}policy: {{steps: 8}}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nname: mine\npolicy: {steps: 9}\n")
    config = load_config(tmp_path / "mine.yaml", {"hardness.combine": "shuffled"})
    made = result_of_run(config, "mine.yaml", "placebo", False, {"report": "1"})
    assert made.base == str(tmp_path / "base.yaml")
    assert made.differences == ["hardness.combine: product -> shuffled", "policy.steps: 8 -> 9"]
    assert (made.config_name, made.seed, made.alias) == ("mine", 0, "")


def test_the_configuration_of_a_result_is_used_with_the_places_of_today(tmp_path: Path) -> None:
    from drirl_core.project import Project

    (tmp_path / "a.yaml").write_text("models: {policy: 'hf:a/p', encoder: 'hf:a/e', cache: here}\nroot: old\n")
    then = load_config(tmp_path / "a.yaml", {"policy.steps": 7})
    present = Project(load_config(tmp_path / "a.yaml", {"root": str(tmp_path / "new"), "models.cache": "there"}))
    entry = result_of_run(then, "a.yaml", "x", False, {})
    again = dataclasses.replace(entry, config=json.loads(json.dumps(resolved(then)))).project(present).config
    assert (again.policy.steps, again.root, again.models.cache) == (7, str(tmp_path / "new"), "there")
    assert build_graph(again).nodes.keys() == build_graph(then).nodes.keys()
