"""The graph of assets, what makes one stale, and how one is built."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config, SourceConfig, load_config
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph import build as stages
from drirl_core.graph.build import STAGES, Context, Node, build, build_graph, code_version, source_version
from drirl_core.graph.stages import Stage
from drirl_core.reporting import Plot, SilentReporter, Table
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.taxonomy import SEVEN_CATEGORIES
from drirl_core.testing import RecordingReporter


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
    """One pool; 8 data sets, completion pools and reward models; 7 hardness tables; 2 policies; floor and ceiling; 1 suite.

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
    suites = [{"name": "embedded"}, {"name": "twins"}]
    graph = build_graph(_config(tmp_path, {"benchmarks.suites": suites}))
    assert graph.sources["source_suite_twins"].name == "heldout_twins"
    readers = {name for name, node in graph.nodes.items() if "source_suite_twins" in node.inputs}
    every = {*SEVEN_CATEGORIES, "helpful"}
    assert readers == {"prompt_pool", "benchmark_twins", *map(stages.dataset_name, every)}
    assert set(graph.nodes["reference_classifiers"].inputs) == set(map(stages.dataset_name, every))
    assert "reference_classifiers" in graph.nodes["benchmark_twins"].inputs
    before = _config(tmp_path)
    after = _config(tmp_path, {"benchmarks.suites": suites})
    assert _changed(before, after) == {"prompt_pool", "dataset", "benchmark"}


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


def test_the_policy_needs_everything_it_uses(tmp_path: Path) -> None:
    inputs = build_graph(_config(tmp_path)).nodes["policy_checkpoint"].inputs
    every = (*SEVEN_CATEGORIES, "helpful")
    wanted = (
        {stages.dataset_name(c) for c in every}
        | {f"reward_model_{c}" for c in every}
        | {f"hardness_{c}" for c in SEVEN_CATEGORIES}
    )
    assert set(inputs) == wanted | {"sft_checkpoint"}


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


def test_what_is_read_from_a_growing_drop_folder_is_kept_under_what_it_grew_to(
    tmp_path: Path, calls: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _inbox(tmp_path)
    folder = build_graph(config).sources["source_inbox"]
    folder.mkdir(parents=True)
    node = Node("probe", "probe", None, ("source_inbox",), "A probe.")
    plain = sys.modules["probe_stage"].stage

    def while_it_grows(context: Context) -> dict[str, Any]:
        (folder / "new.csv").write_text("prompt\nhello\n")
        shown = plain(context)
        (context.out / "seen.txt").write_text(" ".join(sorted(f.name for f in folder.iterdir())))
        return shown

    monkeypatch.setattr(sys.modules["probe_stage"], "stage", while_it_grows)
    before = source_version(folder)
    artifact, reused, _ = build(node, config, {"source_inbox": before}, SilentReporter())
    assert (reused, len(calls)) == (False, 2)
    assert artifact.manifest["inputs"] == {"source_inbox": source_version(folder)}
    assert build(node, config, {"source_inbox": source_version(folder)}, SilentReporter())[1]
    (folder / "new.csv").unlink()
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", plain)
    assert not build(node, config, {"source_inbox": before}, SilentReporter())[1]
    assert [p for p in (ArtifactStore(config.root).root / ".work").iterdir() if p.is_dir()] == []


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
        match=r"nowhere\.csv cannot be read \(No such file or directory\); mend the path in the configuration",
    ):
        source_version(tmp_path / "nowhere.csv")


def test_embedded_sources_are_shipped_files() -> None:
    assert stages.source_path(SourceConfig("helpful", "embedded")) == stages.DATA_FOLDER / "helpful.jsonl"
    assert stages.source_path(SourceConfig("helpful", "/x/y.csv")) == Path("/x/y.csv")


# ---------------------------------------------------------------------------------------------------------------- build


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    """Put a stage `probe` in place that writes one file and a picture and remembers its context."""
    seen: list[Context] = []

    def stage(context: Context) -> dict[str, Any]:
        seen.append(context)
        given = {name: path.read_text() for name, path in sorted(context.inputs.items()) if path.is_file()}
        (context.out / "made.txt").write_text(f"{context.category} {given} {context.config.seed}")
        (context.out / "plot.png").write_bytes(b"png")
        return {
            "rows": 3,
            "share": 0.5,
            "kind": "x",
            "plot": Plot(context.out / "plot.png", "a plot"),
            "table": Table([{"a": 1}]),
        }

    module = types.ModuleType("probe_stage")
    module.stage = stage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe_stage", module)
    monkeypatch.setitem(STAGES, "probe", Stage("probe_stage:stage", "1", ("policy",), "test"))
    return seen


def _model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


NODE = Node("probe", "probe", "insult", ("source_unsafe_prompts",), "A probe.")


def _now(config: Config) -> dict[str, str]:
    return {"source_unsafe_prompts": source_version(build_graph(config).sources["source_unsafe_prompts"])}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "prompts.csv").write_text("prompt\nhello\n")
    return _config(tmp_path, {"prompts.sources": [{"name": "unsafe_prompts", "path": str(tmp_path / "prompts.csv")}]})


def test_build_gives_the_stage_its_context_and_keeps_what_it_reports(
    config: Config, calls: list[Context], tmp_path: Path
) -> None:
    artifact, reused, shown = build(NODE, config, {**_now(config), "unrelated": "v9"}, SilentReporter())
    assert not reused
    context = calls[0]
    assert (context.category, context.config) == ("insult", config)
    assert context.inputs == {"source_unsafe_prompts": tmp_path / "prompts.csv"}
    assert context.scratch.parent == context.out.parent
    assert (artifact.path / "made.txt").read_text() == "insult {'source_unsafe_prompts': 'prompt\\nhello\\n'} 0"
    assert artifact.manifest["inputs"] == _now(config)
    assert artifact.manifest["code_version"] == code_version(NODE, config)
    assert artifact.manifest["config"]["models"]["policy"] == "hf:a/policy"
    metadata = dict(artifact.metadata)
    assert metadata.pop("seconds") >= 0
    assert metadata == {"rows": 3, "share": 0.5, "kind": "x"}  # pictures and tables are for display only
    assert shown["plot"].path == artifact.path / "plot.png"  # where it lies after publishing
    assert shown["plot"].path.is_file()
    assert shown["table"] == Table([{"a": 1}])


def test_equal_inputs_are_not_built_again(config: Config, calls: list[Context]) -> None:
    first, _, _ = build(NODE, config, _now(config), SilentReporter())
    reporter = RecordingReporter()
    second, reused, shown = build(NODE, config, _now(config), reporter)
    assert (len(calls), reused, shown, second.version) == (1, True, {}, first.version)
    assert reporter.lines == [f"probe: unchanged, version {first.version} is reused"]


def test_other_inputs_and_settings_are_built(config: Config, calls: list[Context], tmp_path: Path) -> None:
    build(NODE, config, _now(config), SilentReporter())
    (tmp_path / "prompts.csv").write_text("prompt\nbye\n")
    build(NODE, config, _now(config), SilentReporter())
    assert len(calls) == 2
    build(
        NODE,
        dataclasses.replace(config, policy=dataclasses.replace(config.policy, steps=2)),
        _now(config),
        SilentReporter(),
    )
    assert len(calls) == 3
    build(NODE, dataclasses.replace(config, name="other"), _now(config), SilentReporter())
    assert len(calls) == 3  # `name` is not in the stage's slice


def test_inputs_that_are_artifacts_are_opened(config: Config, calls: list[Context]) -> None:
    first, _, _ = build(NODE, config, _now(config), SilentReporter())
    after = Node("after", "probe", None, ("probe",), "Needs the probe.")
    build(after, config, {"probe": first.version}, SilentReporter())
    assert calls[-1].inputs == {"probe": first.path}
    (first.path / "made.txt").unlink()
    with pytest.raises(ArtifactError, match=r"made\.txt is missing or truncated"):
        build(dataclasses.replace(after, name="later"), config, {"probe": first.version}, SilentReporter())


def test_inputs_nobody_built_are_named(config: Config) -> None:
    node = build_graph(config).nodes["hardness_insult"]
    with pytest.raises(
        ArtifactError,
        match=r"hardness_insult needs completion_pool_insult, reward_model_insult, which have not been materialized",
    ):
        build(node, config, {"safety_dataset_insult": "x"}, SilentReporter())
    with pytest.raises(
        ArtifactError, match=r"hardness_insult needs reward_model_insult, which has not been materialized"
    ):
        build(node, config, {"safety_dataset_insult": "x", "completion_pool_insult": "y"}, SilentReporter())


def test_a_failed_stage_leaves_no_artifact(
    config: Config, calls: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(context: Context) -> dict[str, Any]:
        (context.out / "half.txt").write_text("half")
        raise DataError("bad row 7")

    working = sys.modules["probe_stage"].stage
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", failing)
    with pytest.raises(DataError, match="bad row 7"):
        build(NODE, config, _now(config), SilentReporter())
    assert ArtifactStore(config.root).latest("probe") is None
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", working)
    artifact, reused, _ = build(NODE, config, _now(config), SilentReporter())
    assert not reused
    assert set(artifact.manifest["files"]) == {"made.txt", "plot.png"}


def test_a_source_edited_before_it_was_read_is_not_kept_under_the_version_before(
    config: Config, calls: list[Context], tmp_path: Path
) -> None:
    before = _now(config)
    (tmp_path / "prompts.csv").write_text("prompt\nbye\n")
    with pytest.raises(
        DataError,
        match=r"probe is not kept, because source_unsafe_prompts \(.*prompts\.csv\) changed while it was read",
    ):
        build(NODE, config, before, SilentReporter())
    assert ArtifactStore(config.root).latest("probe") is None
    artifact, reused, _ = build(NODE, config, _now(config), SilentReporter())
    assert not reused
    assert "bye" in (artifact.path / "made.txt").read_text()


def test_a_model_replaced_while_it_is_used_is_not_kept(
    config: Config, calls: list[Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "probe", dataclasses.replace(STAGES["probe"], config=("models.policy",)))
    local = dataclasses.replace(
        config, models=dataclasses.replace(config.models, policy=f"path:{_model(tmp_path / 'model')}")
    )
    plain = sys.modules["probe_stage"].stage

    def while_it_changes(context: Context) -> dict[str, Any]:
        _model(tmp_path / "model", b"WEIGHTS")
        return plain(context)

    monkeypatch.setattr(sys.modules["probe_stage"], "stage", while_it_changes)
    with pytest.raises(DataError, match=r"files of models\.policy changed while it was read; run again"):
        build(NODE, local, _now(config), SilentReporter())
    artifact, reused, _ = build(NODE, local, _now(config), SilentReporter())
    assert (reused, set(artifact.manifest["contents"])) == (False, {"files of models.policy"})


def test_named_inputs_by_prefix(config: Config, tmp_path: Path) -> None:
    names = ("reward_model_a", "reward_model_b_c", "hardness_a", "sft_checkpoint", "rewarding")
    context = Context(
        config, None, {n: Path(n) for n in names}, tmp_path, tmp_path, ArtifactStore(tmp_path), SilentReporter()
    )
    assert context.named("reward_model") == {"a": Path("reward_model_a"), "b_c": Path("reward_model_b_c")}
    assert context.named("sft_checkpoint") == {"": Path("sft_checkpoint")}
    assert context.named("nothing") == {}
