"""The GRPO stage on a tiny policy: its files, equal bytes for equal inputs, and exact resumption of a killed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.errors import TrainingError
from drirl_core.models.loading import load_policy
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.training import read_log
from drirl_core.reporting import Plot


def _weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_the_files_and_metadata_of_the_stage(contexts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    context = contexts.make("run")
    shown = build_policy_checkpoint(context)
    names = {path.name for path in context.out.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "generation_config.json",
        "training_log.jsonl",
        "metrics.json",
        "curves.png",
        "README.md",
        "adapter",
    } <= names
    log = read_log(context.out / "training_log.jsonl")
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    for row in log:
        assert {"loss", "reward", "kl", "alpha/mean", "alpha/min", "alpha/max", "gap/helpful/mean", "entropy"} <= set(
            row
        )
        assert row["alpha/mean"] == pytest.approx(1.0)
        assert not any(key.startswith("time/") or key == "step_time" for key in row)
    times = read_log(context.out / "times.jsonl")
    assert all(row["time/sample_s"] > 0 and row["time/step_s"] > 0 for row in times)
    metrics = json.loads((context.out / "metrics.json").read_text())
    assert metrics["steps"] == 4
    assert metrics["alpha_min"] == min(row["alpha/min"] for row in log)
    assert {key: shown[key] for key in metrics} == metrics
    assert isinstance(shown["curves"], Plot)
    assert shown["sample_seconds"] >= 0
    completions = 4 * context.config.policy.prompts_per_step * context.config.policy.num_generations
    assert shown["tokens"] == pytest.approx(completions * sum(row["completions/mean_length"] for row in log) / 4)
    assert completions <= shown["tokens"] <= completions * context.config.policy.max_new_tokens
    assert context.reporter.done["GRPO"] == (4, 4)
    start, end = _weights(Path(context.config.models.policy.removeprefix("path:"))), _weights(context.out)
    assert start.keys() == end.keys()
    moved = {name for name in end if not (start[name] == end[name]).all()}
    assert any("q_proj" in name for name in moved)
    assert not any("embed_tokens" in name or "norm" in name for name in moved)  # only what the adapters adapt
    load_policy(context.out, context.config.models)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
def test_equal_inputs_give_equal_bytes(contexts: Any) -> None:
    steps = {"policy.steps": 2}
    first, second = contexts.make("first", steps), contexts.make("second", steps)
    for context in (first, second):
        build_policy_checkpoint(context)
    files = [str(path.relative_to(first.out)) for path in sorted(first.out.rglob("*")) if path.is_file()]
    assert "adapter/adapter_model.safetensors" in files
    for name in (name for name in files if name != "times.jsonl"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    other = contexts.make("other", {**steps, "seed": 1})
    build_policy_checkpoint(other)
    assert (first.out / "model.safetensors").read_bytes() != (other.out / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="adapters"),
        pytest.param({"policy.lora": {"rank": 0}, "policy.micro_batch": 4}, marks=pytest.mark.long, id="all_weights"),
        pytest.param(
            {"policy.num_iterations": 2, "hardness.refresh": "epoch", "hardness.responsiveness": "ema"},
            marks=pytest.mark.long,
            id="two_passes",
        ),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(contexts: Any, overrides: dict[str, Any]) -> None:
    """Killed in step 3 of 4 after a checkpoint in step 2: weights and log are those of the uninterrupted run."""
    overrides = {"policy.save_steps": 2, **overrides}
    passes = overrides.get("policy.num_iterations", 1)
    uninterrupted = contexts.make("uninterrupted", overrides)
    shown = build_policy_checkpoint(uninterrupted)
    with pytest.raises(Killed):
        build_policy_checkpoint(contexts.make("killed", overrides, reporter=KillingReporter(2 * passes + 1)))
    resumed = contexts.make("killed", overrides)
    assert build_policy_checkpoint(resumed)["tokens"] == shown["tokens"] > 0
    assert resumed.reporter.lines == [f"GRPO resumes from checkpoint-{2 * passes}"]
    assert [step for step, _ in resumed.reporter.steps] == list(range(2 * passes + 1, 4 * passes + 1))
    left, right = _weights(uninterrupted.out), _weights(resumed.out)
    largest_difference = max(float((left[name] - right[name]).abs().max()) for name in left)
    assert largest_difference == 0.0
    logs = [read_log(context.out / "training_log.jsonl") for context in (uninterrupted, resumed)]
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
def test_a_run_killed_after_its_last_step_only_saves(contexts: Any) -> None:
    with pytest.raises(Killed):
        build_policy_checkpoint(
            contexts.make("run", {"policy.steps": 2, "policy.save_steps": 1}, reporter=KillingReporter(2))
        )
    context = contexts.make("run", {"policy.steps": 2, "policy.save_steps": 1})
    shown = build_policy_checkpoint(context)
    assert shown["steps"] == 2


def test_a_reward_that_is_not_finite_stops_the_run(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from drirl_core.policy import scoring

    monkeypatch.setattr(
        scoring.RolloutScorer, "reward", lambda self, prompts, completions, **_: [float("nan")] * len(prompts)
    )
    context = contexts.make("run")
    with pytest.raises(TrainingError, match="rewards are not finite"):
        build_policy_checkpoint(context)
    assert list(context.out.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would replace a NaN loss by the previous one; ours stops."""
    from drirl_core.policy import trainer as module

    compute = module.DynamicRewardScalingTrainer.compute_loss
    monkeypatch.setattr(
        module.DynamicRewardScalingTrainer,
        "compute_loss",
        lambda *args, **kwargs: compute(*args, **kwargs) * float("nan"),
    )
    context = contexts.make("run", {"policy.kl": 0.0})
    with pytest.raises(TrainingError, match=r"GRPO: .*loss.* is not finite at step 1"):
        build_policy_checkpoint(context)
