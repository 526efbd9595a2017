"""Chat and score on tiny random models: the code runs, the answers have no meaning."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from drirl_core.config import Config, ModelsConfig, resolved
from drirl_core.errors import ArtifactError
from drirl_core.project import Project
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table
from drirl_core.testing import make_tiny_policy
from pipeline.cli import chat
from pipeline.cli import score as scoring
from pipeline.cli.main import app


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an SFT start and an aligned policy, and its configuration file."""
    folder = tmp_path_factory.mktemp("trained")
    base = make_tiny_policy(folder / "base")
    settings = {
        "root": str(folder / "store"),
        "models": {"policy": f"path:{base}", "encoder": f"path:{folder}/encoder", "dtype": "float32", "device": "cpu"},
        "benchmarks": {"max_new_tokens": 4},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = Config(models=ModelsConfig(**settings["models"]))
    store, versions = ArtifactStore(folder / "store"), {}
    for seed, name in enumerate(("sft_checkpoint", "policy_checkpoint"), start=1):
        with store.building(name, f"key{seed}") as workspace:
            make_tiny_policy(workspace.out, seed=seed)
            details = {"metadata": {}, "inputs": dict(versions), "config": resolved(config)}
            versions[name] = store.publish(name, f"key{seed}", workspace, details=details).version
    return folder / "own.yaml"


def test_chat_puts_the_replies_side_by_side(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    shown = CliRunner().invoke(
        app, ["chat", "--config", str(trained), "--show", "sft", "--prompt", "Hello", "--prompt", "Good [bold]day"]
    )
    assert shown.exit_code == 0, shown.output
    heads = [line for line in shown.output.splitlines() if " base " in line]
    assert len(heads) == 2
    assert all(" SFT start " in line and " DR-IRL " in line for line in heads)
    assert "> Good [bold]day" in shown.output


def test_chat_refuses_half_a_character_before_a_model_loads(trained: Path) -> None:
    shown = CliRunner().invoke(app, ["chat", "--config", str(trained), "--prompt", "half \udcff"])
    assert shown.exit_code == 1
    assert "the prompt holds half a character (such as half an emoji), '\\udcff', at character 6" in shown.stderr


def test_conversation_ends_with_an_empty_line(trained: Path) -> None:
    shown = CliRunner().invoke(app, ["chat", "--config", str(trained)], input="Hello\n\n")
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(" DR-IRL ") == 1
    assert " SFT start " not in shown.output


def test_drafts_are_removed_before_showing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drirl_core.models.sampling import Completion
    from pipeline.cli.common import read_project

    monkeypatch.setattr(
        "drirl_core.models.sampling.sample", lambda *a, **k: [[Completion("draft step\n####\nthe answer", 5, True)]]
    )
    assert chat.ChatPolicies(read_project(trained), ("base", "dr_irl")).answers("x") == {
        "base": "the answer",
        "dr_irl": "the answer",
    }


def test_start_that_is_the_base_model_cannot_be_shown_twice() -> None:
    aligned: Any = SimpleNamespace(manifest={"inputs": {}})
    with pytest.raises(ArtifactError, match="started from the base model itself"):
        chat.sft_start(ArtifactStore("nowhere"), aligned)


def test_base_of_the_comparison_is_the_one_the_policy_was_trained_from() -> None:
    then = Config(models=ModelsConfig(policy="path:/then", encoder="path:/e"))
    aligned: Any = SimpleNamespace(manifest={"config": resolved(then)})
    now = ModelsConfig(policy="path:/now", encoder="path:/e", device="cpu")
    assert chat.models_of(aligned, now) == ModelsConfig(policy="path:/then", encoder="path:/e", device="cpu")


def test_narrow_consoles_stack_the_replies() -> None:
    console = Console(file=io.StringIO(), width=40)
    chat.show("a prompt", {"base": "one", "dr_irl": ""}, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not any("base" in line and "DR-IRL" in line for line in lines)
    assert any("(empty)" in line for line in lines)
    assert max(map(len, lines)) <= 40


class AxisEmbedder:
    """Embed the texts of each category on a separate axis."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[float("insult" in text), float("fraud" in text), 0.1] for text in texts]) / 1.005


def pool(store: ArtifactStore, labels: list[str]) -> None:
    schema = pa.schema([("prompt", pa.string()), ("category", pa.string()), ("labelled_by", pa.string())])
    rows = [{"prompt": f"{label} {i}", "category": label, "labelled_by": "source"} for i, label in enumerate(labels)]
    with store.building("prompt_pool", "key") as workspace:
        write_table(workspace.out / "prompts.parquet", rows, schema)
        store.publish("prompt_pool", "key", workspace, details={"metadata": {}})


def test_router_of_the_score_is_fitted_on_the_pool(tmp_path: Path) -> None:
    project = Project(Config(models=ModelsConfig(policy="path:/p", encoder="path:/e"), root=str(tmp_path)))
    pool(project.store, ["insult", "fraud"] * 10)
    best, confidence = scoring.route(project, AxisEmbedder(), "another fraud")
    assert best == "fraud"
    assert 0.5 < confidence <= 1


def test_pool_with_one_category_has_no_router(tmp_path: Path) -> None:
    project = Project(Config(models=ModelsConfig(policy="path:/p", encoder="path:/e"), root=str(tmp_path)))
    pool(project.store, ["insult"] * 10)
    assert scoring.route(project, AxisEmbedder(), "x") == (None, 0.0)


def test_score_shows_the_prompts_own_category_first() -> None:
    console = Console(file=io.StringIO(), width=100)
    found = scoring.Scored("fraud", "fraud", 0.81, {"insult": -1.0, "fraud": 2.5, "helpful": 0.25}, "refusal")
    scoring.show(found, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "router: fraud, confidence 0.81"
    assert lines[1] == "judge: refusal"
    assert [line.split()[0] for line in lines[3:6]] == ["fraud", "helpful", "insult"]
    assert "+2.500" in lines[3]
