"""How an asset is built: once per inputs and settings, with its context, and kept only when nothing changed meanwhile."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config, load_config
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph.build import Context, build
from drirl_core.graph.layout import Node, build_graph
from drirl_core.graph.record import Stage
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import code_version, source_version
from drirl_core.project import Project
from drirl_core.reporting import Plot, SilentReporter, Table
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter


def _config(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n", encoding="utf-8"
    )
    return load_config(file, overrides)


def _inbox(folder: Path, **settings: Any) -> Config:
    return _config(folder, {"operations.inbox": {"folder": str(folder / "drop"), **settings}})


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
    artifact, reused, shown = build(NODE, Project(config), {**_now(config), "unrelated": "v9"}, SilentReporter())
    assert not reused
    context = calls[0]
    assert (context.category, context.suite, context.config) == ("insult", None, config)
    assert context.graph == Project(config).graph
    assert context.inputs == {"source_unsafe_prompts": tmp_path / "prompts.csv"}
    assert context.scratch.parent == context.out.parent
    assert (artifact.path / "made.txt").read_text() == "insult {'source_unsafe_prompts': 'prompt\\nhello\\n'} 0"
    assert artifact.manifest["inputs"] == _now(config)
    assert artifact.manifest["code_version"] == code_version(NODE, config)
    assert artifact.manifest["config"]["models"]["policy"] == "hf:a/policy"
    metadata = dict(artifact.metadata)
    assert metadata.pop("seconds") >= 0
    assert metadata == {"rows": 3, "share": 0.5, "kind": "x"}  # pictures and tables are for display only
    assert shown["plot"].path == artifact.path / "plot.png"  # where it is after publishing
    assert shown["plot"].path.is_file()
    assert shown["table"] == Table([{"a": 1}])


def test_the_stage_of_a_suite_is_told_which(config: Config, calls: list[Context]) -> None:
    build(dataclasses.replace(NODE, category=None, suite="own"), Project(config), _now(config), SilentReporter())
    assert (calls[0].category, calls[0].suite) == (None, "own")


def test_equal_inputs_are_not_built_again(config: Config, calls: list[Context]) -> None:
    first, _, _ = build(NODE, Project(config), _now(config), SilentReporter())
    reporter = RecordingReporter()
    second, reused, shown = build(NODE, Project(config), _now(config), reporter)
    assert (len(calls), reused, shown, second.version) == (1, True, {}, first.version)
    assert reporter.lines == [f"probe: unchanged, version {first.version} is reused"]


def test_other_inputs_and_settings_are_built(config: Config, calls: list[Context], tmp_path: Path) -> None:
    build(NODE, Project(config), _now(config), SilentReporter())
    (tmp_path / "prompts.csv").write_text("prompt\nbye\n")
    build(NODE, Project(config), _now(config), SilentReporter())
    assert len(calls) == 2
    build(
        NODE,
        Project(dataclasses.replace(config, policy=dataclasses.replace(config.policy, steps=2))),
        _now(config),
        SilentReporter(),
    )
    assert len(calls) == 3
    build(NODE, Project(dataclasses.replace(config, name="other")), _now(config), SilentReporter())
    assert len(calls) == 3  # `name` is not in the stage's slice


def test_inputs_that_are_artifacts_are_opened(config: Config, calls: list[Context]) -> None:
    first, _, _ = build(NODE, Project(config), _now(config), SilentReporter())
    after = Node("after", "probe", None, ("probe",), "Needs the probe.")
    build(after, Project(config), {"probe": first.version}, SilentReporter())
    assert calls[-1].inputs == {"probe": first.path}
    (first.path / "made.txt").unlink()
    with pytest.raises(ArtifactError, match=r"made\.txt is missing or truncated"):
        build(dataclasses.replace(after, name="later"), Project(config), {"probe": first.version}, SilentReporter())


def test_inputs_nobody_built_are_named(config: Config) -> None:
    node = build_graph(config).nodes["hardness_insult"]
    with pytest.raises(
        ArtifactError,
        match=r"hardness_insult needs completion_pool_insult, reward_model_insult, which have not been materialized",
    ):
        build(node, Project(config), {"safety_dataset_insult": "x"}, SilentReporter())
    with pytest.raises(
        ArtifactError, match=r"hardness_insult needs reward_model_insult, which has not been materialized"
    ):
        build(node, Project(config), {"safety_dataset_insult": "x", "completion_pool_insult": "y"}, SilentReporter())


def test_a_failed_stage_leaves_no_artifact(
    config: Config, calls: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(context: Context) -> dict[str, Any]:
        (context.out / "half.txt").write_text("half")
        raise DataError("bad row 7")

    working = sys.modules["probe_stage"].stage
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", failing)
    with pytest.raises(DataError, match="bad row 7"):
        build(NODE, Project(config), _now(config), SilentReporter())
    assert ArtifactStore(config.root).latest("probe") is None
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", working)
    artifact, reused, _ = build(NODE, Project(config), _now(config), SilentReporter())
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
        build(NODE, Project(config), before, SilentReporter())
    assert ArtifactStore(config.root).latest("probe") is None
    artifact, reused, _ = build(NODE, Project(config), _now(config), SilentReporter())
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
        build(NODE, Project(local), _now(config), SilentReporter())
    artifact, reused, _ = build(NODE, Project(local), _now(config), SilentReporter())
    assert (reused, set(artifact.manifest["contents"])) == (False, {"files of models.policy"})


def test_named_inputs_by_prefix(config: Config, tmp_path: Path) -> None:
    names = ("reward_model_a", "reward_model_b_c", "hardness_a", "sft_checkpoint", "rewarding")
    context = Context(
        config, None, {n: Path(n) for n in names}, tmp_path, tmp_path, ArtifactStore(tmp_path), SilentReporter()
    )
    assert context.named("reward_model") == {"a": Path("reward_model_a"), "b_c": Path("reward_model_b_c")}
    assert context.named("sft_checkpoint") == {"": Path("sft_checkpoint")}
    assert context.named("nothing") == {}


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
    artifact, reused, _ = build(node, Project(config), {"source_inbox": before}, SilentReporter())
    assert (reused, len(calls)) == (False, 2)
    assert artifact.manifest["inputs"] == {"source_inbox": source_version(folder)}
    assert build(node, Project(config), {"source_inbox": source_version(folder)}, SilentReporter())[1]
    (folder / "new.csv").unlink()
    monkeypatch.setattr(sys.modules["probe_stage"], "stage", plain)
    assert not build(node, Project(config), {"source_inbox": before}, SilentReporter())[1]
    assert [p for p in (ArtifactStore(config.root).root / ".work").iterdir() if p.is_dir()] == []
