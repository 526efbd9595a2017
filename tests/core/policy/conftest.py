"""Inputs of the policy stages: two harm categories and the helpful set, with small tables and random reward models."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from drirl_core.config import Config, ModelsConfig, load_config
from drirl_core.demonstrations.publish import ROWS
from drirl_core.graph.build import Context
from drirl_core.graph.layout import dataset_name
from drirl_core.hardness.stage import SCHEMA
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import prompt_id, read_table, write_table
from drirl_core.testing import RecordingReporter, tiny_settings

CATEGORIES = ("insult", "mental_health")
ANSWER = "I will not help with that, because it hurts somebody. Please talk to a friend about it instead."
HELPFUL_ANSWER = "Here is how it goes: begin early, take your time, and ask when you are unsure."


def dataset_rows(category: str, count: int = 8) -> list[dict[str, Any]]:
    """Return rows of a data set: the last two are validation and test; harmless rows alternate between both kinds."""
    rows = []
    for i in range(count):
        prompt = f"{category} request number {i}"
        answer = f"{HELPFUL_ANSWER if category == 'helpful' else ANSWER} Case {i}."
        rows.append(
            {
                "prompt_id": prompt_id(prompt), "prompt": prompt, "category": category, "demonstration": f"think of it\n####\n{answer}", "answer": answer,
                "kind": ("general", "look_alike")[i % 2] if category == "helpful" else "unsafe", "source": "test", "licence": "CC0-1.0",
                "split": {count - 2: "validation", count - 1: "test"}.get(i, "train"), "origin": "pool", "group_id": f"{category}-{i}",
                "style": "", "twin_of": "",
            }
        )  # fmt: skip
    return rows


def write_inputs(folder: Path, models: ModelsConfig) -> dict[str, Path]:
    """Write data sets, random reward models and hardness tables below a directory; return their directories by asset
    name.
    """
    import torch

    from drirl_core.models.embeddings import Embedder
    from drirl_core.rewards.backbones.encoder import EmbeddingRewardModel, HeadShape, probe_encoder
    from drirl_core.text.quality import TextQuality

    embedder = Embedder(models, ArtifactStore(folder / "store"))
    probe = probe_encoder(embedder)
    inputs: dict[str, Path] = {}
    for number, category in enumerate((*CATEGORIES, "helpful")):
        rows = dataset_rows(category)
        for name in (dataset_name(category), f"reward_model_{category}", f"hardness_{category}"):
            inputs[name] = folder / name
            inputs[name].mkdir(parents=True)
        write_table(inputs[dataset_name(category)] / "rows.parquet", rows, ROWS)
        write_table(
            inputs[dataset_name(category)] / "refusals.parquet",
            [{"refusal": "I can't do that."}],
            pa.schema([("refusal", pa.string())]),
        )
        torch.manual_seed(number)
        shape = HeadShape(category, models.encoder, len(probe), 4, 0.0)
        text_quality = TextQuality.learn([row["prompt"] for row in rows], [row["answer"] for row in rows], [])
        EmbeddingRewardModel(shape, text_quality, probe).save(inputs[f"reward_model_{category}"])
        training = [row for row in rows if row["split"] == "train"]
        hardness = [
            {
                "prompt_id": row["prompt_id"], "category": category, "similarity": 0.5, "delta": 0.5, "alpha_d": 1.0, "gap": 1.0, "kept": True,
                "alpha_m": 1.0, "alpha": 0.8 + 0.1 * i,
            }
            for i, row in enumerate(training)
        ]  # fmt: skip
        write_table(inputs[f"hardness_{category}"] / "hardness.parquet", hardness, SCHEMA)
        constants = {
            "mean_delta": 0.5,
            "tau": 1.0,
            "mean_gap": 1.0,
            "filtered_gap": 1.0,
            "alpha_m": 1.0,
            "n": len(training),
            "policy": "sft",
        }
        (inputs[f"hardness_{category}"] / "constants.json").write_text(json.dumps(constants))
    del inputs["hardness_helpful"]
    return inputs


class ContextFactory:
    """Make contexts over the same inputs, each with its own output, scratch and configuration."""

    def __init__(self, folder: Path, models: ModelsConfig, inputs: dict[str, Path]) -> None:
        self._folder, self._models, self.inputs = folder, models, inputs

    def config(self, overrides: dict[str, Any] | None = None) -> Config:
        settings = tiny_settings(Path("/policy"), Path("/encoder"), self._folder / "artifacts")
        settings["models"] = dataclasses.asdict(self._models)
        settings["policy"] |= {"start": "base", "steps": 4, "learning_rate": 1e-2}
        settings["completions"]["samples"] = {"base": 1}
        file = self._folder / "run.yaml"
        file.write_text(json.dumps(settings))
        return load_config(file, overrides)

    def make(self, name: str, overrides: dict[str, Any] | None = None, **changes: Any) -> Context:
        """Return a context whose output is `name/out`; the scratch of an earlier context of that name is kept."""
        out, scratch = self._folder / name / "out", self._folder / name / "scratch"
        out.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        config = self.config(overrides)
        values: dict[str, Any] = {
            "config": config, "category": None, "inputs": self.inputs, "out": out, "scratch": scratch, "store": ArtifactStore(config.root),
            "reporter": RecordingReporter(),
        }  # fmt: skip
        return Context(**{**values, **changes})


@pytest.fixture(scope="session")
def policy_inputs(tiny_models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_inputs(tmp_path_factory.mktemp("policy_inputs"), tiny_models)


@pytest.fixture
def contexts(policy_inputs: dict[str, Path], tiny_models: ModelsConfig, tmp_path: Path) -> ContextFactory:
    return ContextFactory(tmp_path, tiny_models, policy_inputs)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plot, which takes longer than the training."""
    monkeypatch.setattr("drirl_core.policy.grpo.curve_plot", lambda *_: None)
    monkeypatch.setattr("drirl_core.policy.sft.curve_plot", lambda *_: None)
    monkeypatch.setattr("drirl_core.policy.dpo.curve_plot", lambda *_: None)
    monkeypatch.setattr("drirl_core.policy.irft.curve_plot", lambda *_: None)


@pytest.fixture
def with_look_alikes(contexts: Any, tmp_path: Path) -> Any:
    """The contexts, with a look-alike in the validation split."""
    folder = tmp_path / "helpful_dataset"
    shutil.copytree(contexts.inputs["helpful_dataset"], folder)
    rows = read_table(folder / "rows.parquet")
    rows[5]["split"] = "validation"
    write_table(folder / "rows.parquet", rows, ROWS)
    contexts.inputs = {**contexts.inputs, "helpful_dataset": folder}
    return contexts
