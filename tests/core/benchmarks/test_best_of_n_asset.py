"""Best-of-N as a baseline of the graph: what it depends on, what it leaves alone, and which settings it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drirl_core.benchmarks.best_of_n import build_best_of_n, chosen, decoding_of
from drirl_core.config import BASELINES, TRAINED, Config, load_config
from drirl_core.errors import ArtifactError, ConfigError, DataError
from drirl_core.graph.build import Context
from drirl_core.graph.layout import build_graph
from drirl_core.graph.policies import POLICIES, asset_of
from drirl_core.graph.versions import code_version
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.study.cost import identities

ON = {"baselines": ["best_of_n"]}
SUITES = {"benchmarks.suites": [{"name": "embedded"}, {"name": "twins"}]}
BEHIND = {"benchmark", "promotion_candidate", "report", "model_card"}
"""Stages that show the baseline, or what shows it."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")


def _config(folder: Path, overrides: dict[str, Any]) -> Config:
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n", encoding="utf-8"
    )
    return load_config(file, overrides)


def _stale(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the stages with an asset that is in both graphs and is made again."""
    first, second = (Project(_config(folder, one)) for one in (before, after))
    old, new = identities(first), identities(second)
    return {first.graph.nodes[name].stage for name in old if name in new and old[name] != new[name]}


def test_without_it_its_setting_changes_nothing(tmp_path: Path) -> None:
    others = {"baselines": [*TRAINED], **SUITES}
    assert _stale(tmp_path, SUITES, {**SUITES, "benchmarks.best_of": 3}) == set()
    assert _stale(tmp_path, others, {**others, "benchmarks.best_of": 3}) == set()


@pytest.mark.parametrize("others", [[], [*TRAINED]])
def test_switched_on_it_makes_nothing_again_but_what_shows_it(tmp_path: Path, others: list[str]) -> None:
    """The code of a benchmark stays as well: only its inputs grow, so that replies that are kept are found."""
    before, after = {"baselines": others, **SUITES}, {"baselines": [*others, "best_of_n"], **SUITES}
    assert _stale(tmp_path, before, after) == BEHIND
    first, second = (_config(tmp_path, one) for one in (before, after))
    old, new = build_graph(first).nodes, build_graph(second).nodes
    assert new.keys() - old.keys() == {"best_of_n_embedded", "best_of_n_twins"}
    assert all(code_version(node, first) == code_version(new[name], second) for name, node in old.items())


def test_the_shipped_configuration_keeps_its_data_its_rewards_and_its_policies(tmp_path: Path) -> None:
    without, with_it = (Project(load_config("configs/demo.yaml", {"root": str(tmp_path), **one})) for one in ({}, ON))
    before, after = identities(without), identities(with_it)
    assert "best_of_n" not in without.graph.stages
    assert {without.graph.nodes[name].stage for name in before if before[name] != after[name]} == BEHIND


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"benchmarks.best_of": 3}, True),
        ({"benchmarks.max_new_tokens": 9}, True),
        ({"completions.temperature": 0.5}, True),
        ({"models.encoder": "hf:b/encoder"}, True),
        ({"rewards.beta": 2.0}, True),
        ({"sft.epochs": 1.0}, True),
        ({"benchmarks.reference_over_refusal": 0.3}, True),
        ({"prompts.router_confidence": 0.3}, True),
        ({"seed": 5}, True),
        ({"policy.steps": 3}, False),
        ({"hardness.combine": "none"}, False),
        ({"benchmarks.score": "none"}, False),
        ({"benchmarks.second_judge": "embedded", "benchmarks.embedded.folder": "x"}, False),
        ({"checks.max_over_refusal": 0.3}, False),
    ],
)
def test_it_is_made_again_by_what_the_choice_rests_on(tmp_path: Path, change: dict[str, Any], again: bool) -> None:
    stale = _stale(tmp_path, ON, {**ON, **change})
    assert ("best_of_n" in stale) is again
    assert "benchmark" in stale or "checks.max_over_refusal" in change


def test_the_number_of_samples_makes_nothing_else_again(tmp_path: Path) -> None:
    assert _stale(tmp_path, ON, {**ON, "benchmarks.best_of": 3}) == {"best_of_n", *BEHIND}


def test_an_asset_of_a_suite_takes_that_of_its_own_suite(tmp_path: Path) -> None:
    graph = build_graph(_config(tmp_path, {**ON, **SUITES}))
    rewards = {f"reward_model_{name}" for name in (*graph.categories, "helpful")}
    for suite, other in (("embedded", "twins"), ("twins", "embedded")):
        needed = {"prompt_pool", "sft_checkpoint", "reference_classifiers", f"source_suite_{suite}", *rewards}
        inputs = set(graph.nodes[f"best_of_n_{suite}"].inputs)
        assert inputs == needed
        benchmark = graph.nodes[f"benchmark_{suite}"].inputs
        assert f"best_of_n_{suite}" in benchmark
        assert f"best_of_n_{other}" not in benchmark
    changed = {"benchmarks.suites": [{"name": "embedded"}, {"name": "twins", "limit": 2}]}
    first, second = (_config(tmp_path, {**ON, **suites}) for suites in (SUITES, changed))
    assert {
        name for name, node in graph.nodes.items() if node.suite and code_version(node, first) != code_version(node, second)
    } == {"best_of_n_twins", "benchmark_twins"}  # fmt: skip


def test_names_and_assets_of_policies() -> None:
    assert ("base", "sft", *BASELINES, "dr_irl") == POLICIES
    assert asset_of("best_of_n", "twins") == "best_of_n_twins"
    assert (asset_of("dpo", "twins"), asset_of("dr_irl", "twins")) == ("dpo_checkpoint", "policy_checkpoint")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"benchmarks.best_of": 1}, r"benchmarks\.best_of is 1; give at least 2 completions to choose from"),
        ({"benchmarks.best_of": 0}, r"benchmarks\.best_of is 0; .*or take best_of_n out of baselines"),
        ({"benchmarks.best_of": 2.5}, r"benchmarks\.best_of"),
        (
            {"policy.start": "base", "completions.samples": {"base": 1, "sft": 0}},
            r"baselines has best_of_n, .* policy\.start is 'base' and there is none; set policy\.start to 'sft'",
        ),
        ({"completions.temperature": 0.0}, r"completions\.temperature is 0\.0; above 0"),
        ({"baselines": ["best_of_n", "best_of_n"]}, r"baselines names one twice: best_of_n, best_of_n"),
    ],
)
def test_settings_that_leave_nothing_to_choose_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _config(tmp_path, {**ON, **settings})


def _context(folder: Path, **changes: Any) -> Context:
    out = folder / "out"
    out.mkdir()
    store = ArtifactStore(folder / "store")
    values = {"inputs": {}, "suite": "embedded", **changes}
    return Context(_config(folder, ON), None, out=out, scratch=folder, store=store, reporter=SilentReporter(), **values)


def test_a_build_without_its_start_or_its_suite_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"best_of_n needs sft_checkpoint among its inputs, which are \[\]"):
        build_best_of_n(_context(tmp_path))
    (tmp_path / "out").rmdir()
    with pytest.raises(DataError, match=r"suite 'embeded' is not in benchmarks\.suites; did you mean 'embedded'\?"):
        build_best_of_n(_context(tmp_path, suite="embeded"))


def test_an_artifact_without_its_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"completions\.parquet"):
        chosen(tmp_path, [])
    with pytest.raises(ArtifactError, match=r"decoding\.json cannot be read .*materialize it again"):
        decoding_of(tmp_path)
