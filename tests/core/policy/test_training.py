"""Code shared by the trainers: the stream, the check for NaN, checkpoints, saving."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.errors import ArtifactError, TrainingError
from drirl_core.models.loading import load_policy
from drirl_core.policy.plots import curve_plot
from drirl_core.policy.tracking import Tracking
from drirl_core.policy.training import (
    TrainingStream,
    checkpoint_state,
    common_arguments,
    last_checkpoint,
    peft_config,
    read_log,
    save_merged,
    shortened,
)
from drirl_core.testing import RecordingReporter


def _stream(folder: Path, **more: Any) -> tuple[TrainingStream, RecordingReporter, Path]:
    reporter, file = RecordingReporter(), folder / "log.jsonl"
    return TrainingStream("GRPO", file, reporter, **more), reporter, file


def _at(step: int, total: int = 4, first: bool = True) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=total, num_input_tokens_seen=0, is_world_process_zero=first)


# -------------------------------------------------------------------------------------------------------------- stream


def test_steps_are_stored_and_streamed(tmp_path: Path) -> None:
    stream, reporter, file = _stream(tmp_path)
    stream.on_train_begin(None, _at(0), None)
    for step in (1, 2):
        stream.on_step_end(None, _at(step), None)
        stream.on_log(
            None,
            _at(step),
            None,
            {"loss": 0.5 * step, "reward": 1.0, "completions/mean_length": 7, "lr": 0.1, "note": "text"},
        )
    stream.on_log(None, _at(2), None, {"train_runtime": 3.0})  # the final summary is not a step
    rows = read_log(file)
    assert [(row["step"], row["loss"], row["lr"]) for row in rows] == [(1, 0.5, 0.1), (2, 1.0, 0.1)]
    assert all(row["time/step_s"] >= 0 for row in rows)
    assert "note" not in rows[0]
    assert reporter.done == {"GRPO": (2, 4)}
    assert reporter.steps[0] == (1, {"loss": 0.5, "reward": 1.0, "completions/mean_length": 7.0})


@pytest.mark.parametrize("key", ["loss", "reward", "grad_norm", "kl"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stop_training(tmp_path: Path, key: str, value: float) -> None:
    stream, reporter, file = _stream(tmp_path)
    with pytest.raises(
        TrainingError, match=rf"GRPO: {key} is not finite at step 3; lower the learning rate, or check the rewards"
    ):
        stream.on_log(None, _at(3), None, {"loss": 0.1, key: value})
    assert (read_log(file), reporter.steps) == ([], [])


def test_of_several_processes_the_first_writes_and_all_stop(tmp_path: Path) -> None:
    stream, reporter, file = _stream(tmp_path)
    other = functools.partial(_at, first=False)
    stream.on_train_begin(None, other(0), None)
    stream.on_step_end(None, other(1), None)
    stream.on_log(None, other(1), None, {"loss": 0.5})
    stream.on_save(SimpleNamespace(output_dir=str(tmp_path)), other(1), None)
    assert (file.exists(), reporter.steps, reporter.done, list(tmp_path.iterdir())) == (False, [], {}, [])
    with pytest.raises(TrainingError, match="loss is not finite at step 2"):
        stream.on_log(None, other(2), None, {"loss": float("nan")})


def test_metrics_without_values_may_be_nan(tmp_path: Path) -> None:
    """TRL logs the mean length of finished completions as NaN when none finished."""
    stream, _, file = _stream(tmp_path)
    stream.on_log(None, _at(1), None, {"loss": 0.1, "completions/mean_terminated_length": float("nan")})
    assert len(read_log(file)) == 1


def test_the_log_continues_from_the_last_checkpoint(tmp_path: Path) -> None:
    """A run was killed while it wrote step 4; its last checkpoint is of step 2, so steps 3 and 4 are repeated."""
    stream, _, file = _stream(tmp_path)
    file.write_text(
        "".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo'
    )
    stream.on_train_begin(None, _at(2), None)
    stream.on_log(None, _at(3), None, {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in read_log(file)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_new_run_removes_an_old_log(tmp_path: Path) -> None:
    stream, _, file = _stream(tmp_path)
    file.write_text('{"step": 1, "loss": 9.0}\n')
    stream.on_train_begin(None, _at(0), None)
    assert read_log(file) == []


def test_reading_a_missing_or_truncated_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.jsonl") == []
    (tmp_path / "cut.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / "cut.jsonl") == [{"step": 1}, {"step": 2}]


def test_only_some_metrics_are_printed() -> None:
    assert shortened({"loss": 1.0, "grad_norm": 2.0, "kl": 3.0}) == {"loss": 1.0, "kl": 3.0}


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _checkpoint(folder: Path, step: int, state: Any = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}")
    stream = TrainingStream("x", folder / "log", RecordingReporter(), state or dict)
    stream.on_save(SimpleNamespace(output_dir=str(folder)), _at(step), None)
    return path


def test_the_newest_complete_checkpoint_is_used(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 4):
        _checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_incomplete_checkpoints_are_removed(tmp_path: Path) -> None:
    complete = _checkpoint(tmp_path, 2)
    unmarked = tmp_path / "checkpoint-4"
    unmarked.mkdir()
    (unmarked / "model.safetensors").write_bytes(b"half")
    (unmarked / "trainer_state.json").write_text("{}")
    stateless = _checkpoint(tmp_path, 6)
    (stateless / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path) == complete
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    (complete / "complete.json").unlink()
    assert last_checkpoint(tmp_path) is None


def test_state_beside_a_checkpoint(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, 3, lambda: {"calls": 3, "mean_gap": {"insult": 0.5}})
    assert checkpoint_state(path) == {"calls": 3, "mean_gap": {"insult": 0.5}}
    (path / "drirl_state.json").write_text("{")
    with pytest.raises(
        ArtifactError, match=r"checkpoint-3 cannot be resumed .*; delete it to start from the one before"
    ):
        checkpoint_state(path)
    (path / "drirl_state.json").unlink()
    with pytest.raises(ArtifactError, match="cannot be resumed"):
        checkpoint_state(path)


# ------------------------------------------------------------------------------------------------------------- settings


def test_adapters() -> None:
    assert peft_config(LoraConfig(rank=0), 2) is None
    made = peft_config(LoraConfig(rank=3, alpha=6, targets=("q_proj",)), 2)
    assert made is not None
    assert (made.r, made.lora_alpha, made.target_modules, made.task_type) == (3, 6, {"q_proj"}, "CAUSAL_LM")


def test_adapters_start_at_a_share_of_the_depth() -> None:
    """0.6 of 30 layers is layer 18; 0.5 of 3 layers is rounded up to layer 2."""
    made = [peft_config(LoraConfig(first_layer=share), depth) for share, depth in ((0.0, 30), (0.6, 30), (0.5, 3))]
    assert [config.layers_to_transform for config in made if config] == [None, list(range(18, 30)), [2]]


def test_lower_layers_get_no_adapter_and_no_gradient(tiny_policy: Path, tiny_models: ModelsConfig) -> None:
    import peft

    policy = load_policy(tiny_policy, tiny_models)
    adapted = peft.get_peft_model(policy.model, peft_config(LoraConfig(rank=2, first_layer=0.5), policy.depth))
    adapted(torch.arange(8).reshape(1, 8)).logits.sum().backward()
    trained = {name for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert trained and all(".layers.1." in name for name in trained)


def test_common_arguments_on_a_cpu(tmp_path: Path) -> None:
    made = {name: field.value for name, field in common_arguments(5, tmp_path, "cpu", Tracking()).items()}
    assert (made["use_cpu"], made["bf16"], made["gradient_checkpointing"], made["seed"]) == (True, False, False, 5)
    assert made["logging_nan_inf_filter"] is False  # otherwise a NaN loss would be replaced by the previous one
    assert (made["report_to"], made["run_name"]) == ("none", None)


# --------------------------------------------------------------------------------------------------------------- saving


def test_saved_weights_hold_the_adapters(tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path) -> None:
    import peft

    policy = load_policy(tiny_policy, tiny_models)
    adapted = peft.get_peft_model(policy.model, peft_config(LoraConfig(rank=2), 2))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        expected = adapted(tokens).logits
    save_merged(adapted, policy, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, expected, rtol=1e-4, atol=1e-4)
        plain = AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager").eval()(tokens).logits
    assert (plain - expected).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == policy.tokenizer.chat_template
    load_policy(tmp_path / "out", tiny_models)


def test_the_adapter_is_kept_beside_the_merged_weights(
    tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path
) -> None:
    import peft

    policy = load_policy(tiny_policy, tiny_models)
    adapted = peft.get_peft_model(policy.model, peft_config(LoraConfig(rank=2), 2))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tokens = torch.arange(8).reshape(1, 8)
    save_merged(adapted, policy, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out" / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert str(tiny_policy) not in (tmp_path / "out" / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    start = AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(start, tmp_path / "out" / "adapter").eval()(tokens).logits
        torch.testing.assert_close(found, merged(tokens).logits, rtol=1e-4, atol=1e-4)


def test_full_fine_tuning_has_no_adapter(tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path) -> None:
    policy = load_policy(tiny_policy, tiny_models)
    save_merged(policy.model, policy, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(
    tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path, value: float
) -> None:
    policy = load_policy(tiny_policy, tiny_models)
    with torch.no_grad():
        policy.model.model.norm.weight[3] = value
    with pytest.raises(
        TrainingError, match=r"weight model\.norm\.weight is not finite after training; lower the learning rate"
    ):
        save_merged(policy.model, policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------------- curves


def _size(file: Path) -> tuple[int, int]:
    head = file.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_curves_have_one_panel_per_metric_and_equal_bytes(tmp_path: Path) -> None:
    log = [{"step": i, "loss": 1.0 / (i + 1), "kl": float(i)} for i in range(5)]
    curve_plot(log, {"loss": "loss", "kl": "KL", "absent": "nothing"}, tmp_path / "two.png", "Title")
    curve_plot(log, {"loss": "loss", "kl": "KL"}, tmp_path / "again.png", "Title")
    curve_plot(log, {"loss": "loss"}, tmp_path / "one.png", "Title")
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert _size(tmp_path / "two.png")[0] > 1.5 * _size(tmp_path / "one.png")[0]


def test_curves_of_an_empty_log(tmp_path: Path) -> None:
    curve_plot([], {"loss": "loss"}, tmp_path / "none.png", "Title")
    assert _size(tmp_path / "none.png")[0] > 0
