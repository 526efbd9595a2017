"""The README beside a checkpoint's weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, ModelsConfig, PolicyConfig
from drirl_core.demonstrations.publish import ROWS
from drirl_core.graph.build import Context
from drirl_core.graph.stages import STAGES
from drirl_core.policy.readme import METHODS, README, write_readme
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table

METRICS = {"first_reward": -0.25, "last_reward": 1.23456, "kl": 0.0815, "steps": 24}


def _row(number: int, split: str, source: str = "own", licence: str = "CC0-1.0") -> dict[str, Any]:
    return {name: f"{number}" for name in ROWS.names} | {"split": split, "source": source, "licence": licence}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    rows = {
        "safety_dataset_insult": [*(_row(i, "train") for i in range(5)), _row(5, "validation"), _row(6, "test", "w|x")],
        "helpful_dataset": [_row(i, "train", "helpful", "CC-BY-4.0") for i in range(3)],
    }
    inputs = {"reward_model_insult": tmp_path / "reward_model_insult" / "abc123"}
    for name, table in rows.items():
        inputs[name] = tmp_path / name / "0123456789abcdef"
        inputs[name].mkdir(parents=True)
        write_table(inputs[name] / "rows.parquet", table, ROWS)
    config = Config(
        models=ModelsConfig(policy="path:/home/somebody/models/mine", encoder="hf:a/encoder@main"),
        name="my\n# run",
        policy=PolicyConfig(steps=7, save_steps=3),
    )
    out = tmp_path / "out"
    out.mkdir()
    return Context(config, None, inputs, out, tmp_path, ArtifactStore(tmp_path / "store"), SilentReporter())


def _text(context: Context, stage: str = "policy_checkpoint") -> str:
    write_readme(context, stage, METRICS)
    return (context.out / README).read_text(encoding="utf-8")


def test_it_says_how_much_data_of_which_licence(context: Context) -> None:
    lines = _text(context).splitlines()
    assert "| helpful_dataset | 3 | 3 | 0 | 0 | helpful (CC-BY-4.0) |" in lines
    assert "| safety_dataset_insult | 7 | 5 | 1 | 1 | own (CC0-1.0), w\\|x (CC0-1.0) |" in lines


def test_it_says_method_settings_lineage_and_figures(context: Context) -> None:
    text = _text(context)
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert "inverse reinforcement learning" in text.lower() and "2503.18991" in text
    assert settings["policy"]["steps"] == 7
    assert settings["seed"] == 0
    assert settings["models.policy"] == "mine"
    assert set(settings) == set(STAGES["policy_checkpoint"].config)
    assert "save_steps" not in settings["policy"]  # it decides nothing
    assert "| reward_model_insult | abc123 |" in text.splitlines()
    assert "| mean reward in the last fifth of the steps | 1.23 |" in text.splitlines()


def test_its_front_matter_is_what_hubs_read_and_no_text_breaks_its_headings(context: Context) -> None:
    text = _text(context)
    matter = yaml.safe_load(text.split("---\n")[1])
    assert (matter["base_model"], matter["license"], matter["library_name"]) == ("mine", "other", "transformers")
    assert re.findall(r"^# .*", text, re.MULTILINE) == ["# my # run: mine aligned with DR-IRL"]
    assert "/home/somebody" not in text


@pytest.mark.parametrize("stage", sorted(METHODS))
def test_equal_inputs_give_equal_bytes_and_the_example_compiles(context: Context, stage: str) -> None:
    first = _text(context, stage)
    assert _text(context, stage) == first
    compile(first.split("```python\n")[1].split("```")[0], "readme", "exec")


def test_every_checkpoint_has_one_that_does_not_decide_its_version() -> None:
    assert {name for name, stage in STAGES.items() if README in stage.volatile} == set(METHODS)
