"""The graph of assets: which there are, what each needs, and the files they are made from."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import BASELINES, Config, SourceConfig, load_config
from drirl_core.errors import ConfigError, DataError
from drirl_core.graph.layout import DATA_FOLDER, build_graph, dataset_name, source_path
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, source_version
from drirl_core.taxonomy import SEVEN_CATEGORIES


def _config(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n", encoding="utf-8"
    )
    return load_config(file, overrides)


# ---------------------------------------------------------------------------------------------------------------- graph


def test_every_input_comes_before_what_needs_it(tmp_path: Path) -> None:
    for overrides in ({}, {"policy.start": "base", "completions.samples": {"base": 2}}):
        graph = build_graph(_config(tmp_path, overrides))
        seen = set(graph.sources)
        for name, node in graph.nodes.items():
            assert node.name == name
            assert node.stage in STAGES
            assert set(node.inputs) <= seen, f"{name} needs {set(node.inputs) - seen} first"
            assert len(set(node.inputs)) == len(node.inputs)
            assert node.description.endswith(".")
            seen.add(name)


def test_names_of_the_demo_graph(tmp_path: Path) -> None:
    """One pool; 8 data sets, completion pools and reward models; 7 hardness tables; 2 policies; floor and ceiling; 1 suite;
    3 reports; 1 candidate.
    """
    graph = build_graph(_config(tmp_path))
    every = (*SEVEN_CATEGORIES, "helpful")
    expected = {
        "prompt_pool",
        "balance_report",
        "sft_checkpoint",
        "policy_checkpoint",
        "reference_classifiers",
        "benchmark_embedded",
        "report",
        "model_card",
    }
    expected.add("promotion_candidate")
    expected |= {f"safety_dataset_{c}" for c in SEVEN_CATEGORIES} | {"helpful_dataset"}
    expected |= {f"{kind}_{c}" for kind in ("completion_pool", "reward_model") for c in every}
    expected |= {f"hardness_{c}" for c in SEVEN_CATEGORIES}
    assert set(graph.nodes) == expected
    assert len(expected) == 9 + 8 + 16 + 7
    assert {"source_unsafe_prompts", "source_demonstrations", "source_helpful", "source_refusals"} <= set(graph.sources)
    for name, path in graph.sources.items():
        assert path.exists(), name


def test_every_suite_is_an_input_of_what_must_not_contain_it(tmp_path: Path) -> None:
    """Of its own benchmark as well; floor and ceiling learn from data sets that were kept clean of it."""
    graph = build_graph(_config(tmp_path, {"benchmarks.suites": [{"name": "embedded"}, {"name": "twins"}]}))
    assert graph.sources["source_suite_twins"].name == "heldout_twins"
    readers = {name for name, node in graph.nodes.items() if "source_suite_twins" in node.inputs}
    every = {*SEVEN_CATEGORIES, "helpful"}
    assert readers == {"prompt_pool", "benchmark_twins", *map(dataset_name, every)}
    assert set(graph.nodes["reference_classifiers"].inputs) == set(map(dataset_name, every))
    assert "reference_classifiers" in graph.nodes["benchmark_twins"].inputs


def test_start_from_base_has_no_supervised_stage(tmp_path: Path) -> None:
    graph = build_graph(_config(tmp_path, {"policy.start": "base", "completions.samples": {"base": 2}}))
    assert "sft_checkpoint" not in graph.nodes
    assert all("sft_checkpoint" not in node.inputs for node in graph.nodes.values())


def test_pools_wait_for_the_supervised_start_only_when_they_sample_it(tmp_path: Path) -> None:
    sampled = build_graph(_config(tmp_path)).nodes["completion_pool_insult"]
    assert "sft_checkpoint" in sampled.inputs
    alone = build_graph(_config(tmp_path, {"completions.samples": {"base": 2, "sft": 0}})).nodes[
        "completion_pool_insult"
    ]
    assert "sft_checkpoint" not in alone.inputs


def test_harm_pools_take_harmless_answers_only_when_they_contrast_them(tmp_path: Path) -> None:
    nodes = build_graph(_config(tmp_path)).nodes
    assert "helpful_dataset" in nodes["completion_pool_insult"].inputs
    assert nodes["completion_pool_helpful"].inputs.count("helpful_dataset") == 1
    alone = build_graph(_config(tmp_path, {"completions.contrast": {"corrupted": 1}})).nodes["completion_pool_insult"]
    assert "helpful_dataset" not in alone.inputs


def test_another_taxonomy_changes_the_graph(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("categories: [left, right]")
    graph = build_graph(_config(tmp_path, {"prompts.taxonomy": str(tmp_path / "mine.yaml")}))
    assert graph.categories == ("left", "right")
    assert [n for n in graph.nodes if n.startswith("hardness_")] == ["hardness_left", "hardness_right"]


@pytest.mark.parametrize(
    ("name", "way_out"), [("insults", "did you mean 'insult'"), ("helpful", "use demonstrations.helpful_quota")]
)
def test_a_quota_of_an_unknown_category_is_refused_before_anything_is_read(
    tmp_path: Path, name: str, way_out: str
) -> None:
    with pytest.raises(ConfigError, match=f"category_quota names '{name}', .*{way_out}"):
        build_graph(_config(tmp_path, {"demonstrations.category_quota": {name: 10}}))


def test_the_policy_needs_everything_it_uses(tmp_path: Path) -> None:
    inputs = build_graph(_config(tmp_path)).nodes["policy_checkpoint"].inputs
    every = (*SEVEN_CATEGORIES, "helpful")
    wanted = (
        {dataset_name(c) for c in every}
        | {f"reward_model_{c}" for c in every}
        | {f"hardness_{c}" for c in SEVEN_CATEGORIES}
    )
    assert set(inputs) == wanted | {"sft_checkpoint"}


def test_a_category_is_a_category_and_a_suite_is_a_suite(tmp_path: Path) -> None:
    graph = build_graph(
        _config(tmp_path, {"baselines": [*BASELINES], "rewards.labels": ["labels.csv"], "rewards.rounds": 5})
    )
    every = (*SEVEN_CATEGORIES, "helpful")
    assert {node.category for node in graph.nodes.values()} == {None, *every}
    assert {node.name: node.suite for node in graph.nodes.values() if node.suite} == {
        "best_of_n_embedded": "embedded",
        "benchmark_embedded": "embedded",
    }
    for stage, record in STAGES.items():
        categories = [node.category for node in graph.of(stage)]
        wanted = {"category": [*every], "harm_category": [*SEVEN_CATEGORIES]}.get(record.per, [None])
        assert categories == wanted, stage
        assert record.per_category == (categories != [None]), stage


def test_an_input_that_is_neither_a_stage_nor_known_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = dataclasses.replace(STAGES["model_card"], inputs=("policy_checkpoints",))
    monkeypatch.setitem(STAGES, "model_card", record)
    with pytest.raises(ValueError, match="'policy_checkpoints' is neither a stage nor one of prompt sources, "):
        build_graph(_config(tmp_path))


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_stage_function_exists(name: str) -> None:
    module, function = STAGES[name].function.split(":")
    assert callable(getattr(importlib.import_module(module), function))


# ---------------------------------------------------------------------------------------------------------- drop folder


def _changed(before: Config, after: Config) -> set[str]:
    nodes = build_graph(before).nodes
    return {node.stage for node in nodes.values() if code_version(node, before) != code_version(node, after)}


def _inbox(folder: Path, **settings: Any) -> Config:
    return _config(folder, {"operations.inbox": {"folder": str(folder / "drop"), **settings}})


def test_without_a_drop_folder_operations_decide_nothing(tmp_path: Path) -> None:
    """Not even the way dropped files would be read: no artifact that exists becomes stale by the section being there."""
    unset = {"operations.inbox": {"licence": "x", "columns": {"prompt": "q"}}, "operations.alerts.hooks": []}
    before, after = build_graph(_config(tmp_path)), build_graph(_config(tmp_path, unset))
    assert before == after
    assert _changed(_config(tmp_path), _config(tmp_path, unset)) == set()
    assert [name for name, stage in STAGES.items() if any(part.startswith("operations") for part in stage.config)] == []


def test_a_drop_folder_is_an_input_of_the_pool_and_of_the_data_sets(tmp_path: Path) -> None:
    graph = build_graph(_inbox(tmp_path))
    readers = {node.stage for node in graph.nodes.values() if "source_inbox" in node.inputs}
    assert graph.sources["source_inbox"] == tmp_path / "drop" / "accepted"
    assert readers == {"prompt_pool", "dataset"}
    assert "source_inbox" not in graph.nodes["helpful_dataset"].inputs
    asked = {
        "demonstrations.demonstrator": {"kind": "model", "model": "hf:a/b"},
        "operations.inbox.folder": str(tmp_path),
    }
    graph = build_graph(_config(tmp_path, asked))
    assert {node.name for node in graph.nodes.values() if "source_inbox" in node.inputs} == {"prompt_pool"}


def test_how_dropped_files_are_read_decides_what_reads_them(tmp_path: Path) -> None:
    before = _inbox(tmp_path)
    assert _changed(before, _inbox(tmp_path, category="insult")) == {"prompt_pool", "dataset"}
    assert _changed(before, _inbox(tmp_path, max_bytes=5, settle_s=9.0)) == set()


def test_a_drop_folder_not_swept_yet_counts_as_empty_and_a_missing_one_is_named(tmp_path: Path) -> None:
    accepted = build_graph(_inbox(tmp_path)).sources["source_inbox"]
    with pytest.raises(DataError, match=r"drop/accepted cannot be read"):
        source_version(accepted)
    (tmp_path / "drop").mkdir()
    not_there = source_version(accepted)
    accepted.mkdir()
    assert source_version(accepted) == not_there


# -------------------------------------------------------------------------------------------------------------- sources


def test_source_versions_follow_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("x")
    before = source_version(file)
    assert source_version(file) == before
    file.write_text("y")
    assert source_version(file) != before


def test_the_version_of_a_directory_follows_its_files(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "a").write_text("x")
    before = source_version(tmp_path / "suite")
    (tmp_path / "suite" / "b").write_text("")
    assert source_version(tmp_path / "suite") != before
    (tmp_path / "suite" / "b").unlink()
    assert source_version(tmp_path / "suite") == before
    (tmp_path / "suite" / "a").rename(tmp_path / "suite" / "c")
    assert source_version(tmp_path / "suite") != before


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"nowhere\.csv cannot be read \(No such file or directory\); fix the path in the configuration",
    ):
        source_version(tmp_path / "nowhere.csv")


def test_embedded_sources_are_shipped_files() -> None:
    assert source_path(SourceConfig("helpful", "embedded")) == DATA_FOLDER / "helpful.jsonl"
    assert source_path(SourceConfig("helpful", "/x/y.csv")) == Path("/x/y.csv")


# ------------------------------------------------------------------------------------------------------------- baselines


def test_baselines_are_assets_that_the_benchmarks_compare(tmp_path: Path) -> None:
    """Only those that are asked for are made, and they change the version of no other stage."""
    plain, with_two = _config(tmp_path), _config(tmp_path, {"baselines": ["dpo", "verifiable"]})
    before, after = build_graph(plain), build_graph(with_two)
    assert set(after.nodes) - set(before.nodes) == {"dpo_checkpoint", "verifiable_checkpoint"}
    assert {"dpo_checkpoint", "verifiable_checkpoint"} <= set(after.nodes["benchmark_embedded"].inputs)
    assert "completion_pool_insult" in after.nodes["dpo_checkpoint"].inputs
    assert "policy_checkpoint" not in after.nodes["dpo_checkpoint"].inputs
    joint = build_graph(_config(tmp_path, {"baselines": ["joint", "dpo_s"]}))
    assert {"joint_reward_model", "joint_checkpoint", "dpo_s_checkpoint"} == set(joint.nodes) - set(before.nodes)
    assert "joint_reward_model" in joint.nodes["joint_checkpoint"].inputs
    assert not [name for name in joint.nodes["joint_checkpoint"].inputs if name.startswith("reward_model_")]
    assert "hardness_insult" in joint.nodes["dpo_s_checkpoint"].inputs
    assert "joint_reward_model" not in joint.nodes["policy_checkpoint"].inputs
    said = build_graph(_config(tmp_path, {"baselines": ["propositions"]}))
    assert {"proposition_reward", "propositions_checkpoint"} == set(said.nodes) - set(before.nodes)
    assert "proposition_reward" in said.nodes["propositions_checkpoint"].inputs
    assert said.nodes["policy_checkpoint"].inputs == before.nodes["policy_checkpoint"].inputs
    trained = build_graph(_config(tmp_path, {"policy.reward": "propositions", "baselines": ["joint", "grpo"]}))
    needing = [name for name, node in trained.nodes.items() if "proposition_reward" in node.inputs]
    assert needing == ["policy_checkpoint", "grpo_checkpoint", "report"]
    for name, node in before.nodes.items():
        assert code_version(node, plain) == code_version(after.nodes[name], with_two), name
    rounds = build_graph(_config(tmp_path, {"baselines": ["irft"]})).nodes["irft_checkpoint"]
    assert set(rounds.inputs) == {name for name in before.nodes if "_dataset" in name} | {"sft_checkpoint"}
    known = code_version(rounds, _config(tmp_path))
    for setting, decides in (
        ("irft.beta", True),
        ("dpo.learning_rate", True),
        ("dpo.beta", False),
        ("dpo.epochs", False),
    ):
        assert (code_version(rounds, _config(tmp_path, {setting: 0.7})) != known) is decides, setting
