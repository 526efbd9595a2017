"""Supervised fine-tuning: its rows, that the tiny policy learns them, and that a killed run resumes exactly."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.config import SftConfig
from drirl_core.demonstrations.publish import ROWS
from drirl_core.errors import ConfigError, DataError
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling.decode import Completion
from drirl_core.policy import own_answers
from drirl_core.policy.sft import build_sft_checkpoint, training_rows
from drirl_core.policy.training import is_time, read_log, write_log
from drirl_core.store.tables import write_table

LEARN = {
    "sft.epochs": 4,
    "sft.learning_rate": 0.01,
    "sft.lora": {"rank": 0},
    "sft.rows_per_category": 0,
    "sft.batch_size": 6,
    "sft.max_length": 256,
}


def _category(row: dict[str, Any]) -> str:
    return row["prompt"][0]["content"].split(" request")[0]


def _datasets_only(contexts: Any) -> Any:
    """Return a context with only data sets, as the graph gives them to this stage."""
    context = contexts.make("rows")
    return dataclasses.replace(
        context, inputs={name: path for name, path in context.inputs.items() if "dataset" in name}
    )


def _tokens_of_all_rows(context: Any) -> int:
    """Count one token per byte, one per marker of the template, and the end token."""
    rows = training_rows(context, context.config.sft, context.config.seed)
    return sum(
        len(row["prompt"][0]["content"].encode()) + len(row["completion"][0]["content"].encode()) + 4 for row in rows
    )


# ----------------------------------------------------------------------------------------------------------------- rows


def test_training_rows_of_all_sets(contexts: Any) -> None:
    """Each of the three sets has 6 training rows, one validation row and one test row."""
    rows = training_rows(_datasets_only(contexts), SftConfig(), seed=0)
    assert Counter(map(_category, rows)) == {"insult": 6, "mental_health": 6, "helpful": 6}
    assert rows[0]["prompt"][0]["role"] == "user"
    assert rows[0]["completion"][0]["role"] == "assistant"
    contents = [row["prompt"][0]["content"] for row in rows]
    assert not any(content.endswith(("number 6", "number 7")) for content in contents)  # validation and test
    assert len(set(map(_category, rows[:6]))) > 1  # mixed


def test_harm_categories_and_the_helpful_set_have_limits_of_their_own(contexts: Any) -> None:
    rows = training_rows(_datasets_only(contexts), SftConfig(rows_per_category=2), seed=0)
    assert Counter(map(_category, rows)) == {"insult": 2, "mental_health": 2, "helpful": 6}
    rows = training_rows(_datasets_only(contexts), SftConfig(helpful_rows=3), seed=0)
    assert Counter(map(_category, rows)) == {"insult": 6, "mental_health": 6, "helpful": 3}


def test_the_seed_chooses_rows_and_order(contexts: Any) -> None:
    context, how = _datasets_only(contexts), SftConfig(rows_per_category=2)
    assert training_rows(context, how, 0) == training_rows(context, how, 0)
    assert training_rows(context, how, 0) != training_rows(context, how, 1)


def test_the_target_is_the_answer_or_the_complete_demonstration(contexts: Any) -> None:
    context = _datasets_only(contexts)
    answers = [row["completion"][0]["content"] for row in training_rows(context, SftConfig(target="answer"), 0)]
    assert not any("####" in text for text in answers)
    complete = [row["completion"][0]["content"] for row in training_rows(context, SftConfig(target="demonstration"), 0)]
    assert all(text.startswith("think of it\n####\n") for text in complete)


def test_no_training_rows(contexts: Any, tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", [], ROWS)
    context = dataclasses.replace(
        contexts.make("rows"), inputs={"helpful_dataset": tmp_path, "safety_dataset_insult": tmp_path}
    )
    with pytest.raises(DataError, match=r"no data set has training rows; check the balance report"):
        training_rows(context, SftConfig(), 0)


# ---------------------------------------------------------------------------------------------------------------- stage


def test_the_policy_learns_its_rows(contexts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """18 rows in batches of 6 make 3 steps per epoch, 12 in all; the loss falls well below ln(261) = 5.56."""
    context = contexts.make("run", LEARN)
    shown = build_sft_checkpoint(context)
    assert (shown["rows"], shown["steps"]) == (18, 12)
    assert 5.0 < shown["first_loss"] < 6.0
    assert shown["last_loss"] < 4.0
    assert 0 < shown["token_accuracy"] <= 1
    assert shown["tokens"] == 4 * _tokens_of_all_rows(context)
    log = read_log(context.out / "training_log.jsonl")
    assert [row["step"] for row in log] == list(range(1, 13))
    assert not any(is_time(key) for row in log for key in row)
    names = {p.name for p in context.out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json", "times.jsonl", "curves.png"} <= names
    assert "supervised fine-tuning" in (context.out / "README.md").read_text(encoding="utf-8")
    load_policy(context.out, context.config.models)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_curves")
def test_prompts_are_not_learned(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of a batch are the completions: prompts do not enter the loss."""
    from trl import SFTTrainer

    seen: list[list[str]] = []
    compute = SFTTrainer.compute_loss

    def recording(self: Any, model: Any, inputs: Any, **more: Any) -> Any:
        labels = inputs["labels"]
        seen.append([self.processing_class.decode(row[row != -100]) for row in labels])
        return compute(self, model, inputs, **more)

    monkeypatch.setattr(SFTTrainer, "compute_loss", recording)
    context = contexts.make("run", {**LEARN, "sft.epochs": 1})
    build_sft_checkpoint(context)
    answers = [
        row["completion"][0]["content"] for row in training_rows(context, context.config.sft, context.config.seed)
    ]
    assert sorted(text for batch in seen for text in batch) == sorted(f"{answer}<|end|>" for answer in answers)


@pytest.mark.usefixtures("no_curves")
def test_a_killed_run_resumes_to_the_same_weights(contexts: Any) -> None:
    """3 steps per epoch, a checkpoint every step; killed in step 3 of 6, the run resumes from step 2."""

    settings = {**LEARN, "sft.epochs": 2}
    uninterrupted = contexts.make("uninterrupted", settings)
    shown = build_sft_checkpoint(uninterrupted)
    with pytest.raises(Killed):
        build_sft_checkpoint(contexts.make("killed", settings, reporter=KillingReporter(3)))
    resumed = contexts.make("killed", settings)
    assert build_sft_checkpoint(resumed)["tokens"] == shown["tokens"]
    assert resumed.reporter.lines == ["SFT resumes from checkpoint-2"]
    left, right = (load_file(context.out / "model.safetensors") for context in (uninterrupted, resumed))
    assert all(bool((left[name] == right[name]).all()) for name in left)
    for name in ("model.safetensors", "training_log.jsonl", "metrics.json"):
        assert (uninterrupted.out / name).read_bytes() == (resumed.out / name).read_bytes(), name


def test_logs_are_split_into_learning_and_times(tmp_path: Path) -> None:
    write_log(
        tmp_path, [{"step": 1, "loss": 2.0, "time/step_s": 0.5, "step_time": 0.4, "profiling/x": 1.0}], {"steps": 1}
    )
    assert read_log(tmp_path / "training_log.jsonl") == [{"step": 1, "loss": 2.0}]
    assert read_log(tmp_path / "times.jsonl") == [{"step": 1, "time/step_s": 0.5, "step_time": 0.4, "profiling/x": 1.0}]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"steps": 1}


# ------------------------------------------------------------------------------------------------------------ own answers

OWN = {"sft.harmless_target": "own", "sft.answer_tokens": 4, "sft.rows_per_category": 0, "sft.epochs": 1}


def test_own_answers_take_the_place_of_those_of_the_data_set(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of six harmless training prompts are refused or looped at; these keep the answer of the data set."""
    replies = {
        "helpful request number 0": "I'm sorry, but I can't help with that.",
        "helpful request number 1": "so " * 60,
    }
    asked: list[tuple[list[str], int, float]] = []

    def scripted(policy: Any, prompts: list[str], copies: int, settings: Any, **_: Any) -> list[list[Completion]]:
        asked.append((sorted(prompts), settings.max_new_tokens, settings.temperature))
        return [[Completion(replies.get(prompt, f"My own words on {prompt}."), 9, True)] for prompt in prompts]

    monkeypatch.setattr(own_answers, "sample", scripted)
    context = contexts.make("own", OWN)
    rows = training_rows(context, context.config.sft, 0)
    changed = own_answers.with_own_answers(context, rows)
    assert asked == [([f"helpful request number {i}" for i in range(6)], 12, 0.0)]
    for before, after in zip(rows, changed, strict=True):
        prompt = before["prompt"][-1]["content"]
        own = prompt.startswith("helpful") and prompt not in replies
        said = [{"role": "assistant", "content": f"My own words on {prompt}."}]
        assert after == (before | {"completion": said} if own else before)
    assert any("4 of 6 harmless prompts are learned with the model's own answer" in x for x in context.reporter.lines)


def test_own_answers_of_a_real_model_are_learned(contexts: Any) -> None:
    own, stock = contexts.make("own", OWN), contexts.make("stock", {**OWN, "sft.harmless_target": "answer"})
    for context in (own, stock):
        assert build_sft_checkpoint(context)["rows"] == 18
    assert any("own answers of the initial model to 6 harmless prompts" in line for line in own.reporter.lines)


def test_own_answers_need_a_length() -> None:
    with pytest.raises(ConfigError, match=r"sft\.harmless_target is own, but sft\.answer_tokens is 0"):
        SftConfig(harmless_target="own")
