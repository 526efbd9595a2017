"""Code shared by all trainers: streaming, the check for NaN, complete checkpoints, logs and saving."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from drirl_core.config import DpoConfig, SftConfig
from drirl_core.config.reading import require
from drirl_core.errors import ArtifactError, TrainingError
from drirl_core.models.adapters import peft_config as peft_config
from drirl_core.models.loading import Policy
from drirl_core.models.quantization import joined
from drirl_core.models.sampling import close_engine
from drirl_core.policy.adapter_files import adapter_state, write_adapter
from drirl_core.policy.arguments import Ours
from drirl_core.policy.cpu import lean_training
from drirl_core.policy.spread import SHARE
from drirl_core.policy.tracking import Tracking, tracked
from drirl_core.reporting import Reporter

_COMPLETE = "complete.json"
_STATE = "drirl_state.json"
STEP_TOKENS = "step_tokens"
"""Logged metric: tokens of one step, prompts included."""


class TrainingStream(TrainerCallback):
    """Send progress and metrics to a reporter, keep a log, stop on NaN and mark complete checkpoints.

    Of several processes all stop on NaN, and the first does the rest.

    Args:
        what: name of the training in progress lines.
        log_file: JSON lines, one per step; continued on resume.
        reporter: receives progress.
        state: returns further state that a resumed run needs, as JSON data.
    """

    def __init__(
        self, what: str, log_file: Path, reporter: Reporter, state: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self._what, self._file, self._reporter, self._state = what, log_file, reporter, state
        self._last = time.monotonic()
        self._tokens = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the logged steps that a resumed run will repeat."""
        self._last, self._tokens = (
            time.monotonic(),
            float(state.num_input_tokens_seen),
        )  # not 0 where TRL keeps it when a run is resumed
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_log(self._file) if row["step"] <= state.global_step]
        self._file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the progress of training."""
        if state.is_world_process_zero:
            self._reporter.progress(self._what, state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Store and stream the metrics of one step.

        Raises:
            TrainingError: the loss, the reward or the gradient is not finite.
        """
        values = {key: float(value) for key, value in (logs or {}).items() if isinstance(value, int | float)}
        bad = [
            key
            for key, value in values.items()
            if not math.isfinite(value) and key in ("loss", "reward", "grad_norm", "kl")
        ]
        if bad:
            raise TrainingError(
                f"{self._what}: {', '.join(bad)} is not finite at step {state.global_step}; "
                "lower the learning rate, or check the rewards"
            )
        if "loss" not in values or not state.is_world_process_zero:  # without: the final summary of the trainer
            return
        now = time.monotonic()
        values["time/step_s"] = now - self._last
        self._last = now
        if "num_tokens" in values:  # a running count
            values[STEP_TOKENS] = values["num_tokens"] - self._tokens
            self._tokens = values["num_tokens"]
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **values}) + "\n")
        self._reporter.metrics(state.global_step, shortened(values))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete; an interrupted write leaves no mark."""
        PartialState().wait_for_everyone()  # each process writes its random state
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / _STATE).write_text(json.dumps(dict(self._state())), encoding="utf-8")
        (folder / _COMPLETE).write_text(json.dumps({"step": state.global_step}), encoding="utf-8")


def run(trainer: Any, checkpoint: Path | None, tracking: Tracking) -> None:
    """Train from the beginning or from a checkpoint, without the callback that prints every log to standard output."""
    close_engine()  # training needs the memory of an engine that sampled before
    trainer.remove_callback(PrinterCallback)
    with tracked(trainer, tracking), lean_training(trainer.model):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def read_log(file: Path) -> list[dict[str, float]]:
    """Read a training log; an incomplete last line is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_log(folder: Path, log: Sequence[dict[str, float]], metrics: dict[str, Any]) -> None:
    """Write the log without its times, so that equal training gives equal bytes, and the times to another file."""
    kept = [{k: v for k, v in row.items() if not is_time(k)} for row in log]
    (folder / "training_log.jsonl").write_text(
        "".join(json.dumps(row, sort_keys=True) + "\n" for row in kept), encoding="utf-8"
    )
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True), encoding="utf-8")
    times = [{k: v for k, v in row.items() if k == "step" or is_time(k)} for row in log]
    (folder / "times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times), encoding="utf-8")


def is_time(key: str) -> bool:
    """Tell whether a logged metric measures cost, not learning; TRL counts `num_tokens` from 0 after a resume."""
    costs = ("step_time", "train_runtime", "num_tokens", "num_tokens_per_second", STEP_TOKENS)
    return key.startswith(("time/", "profiling/")) or key in costs


def shortened(values: Mapping[str, float]) -> dict[str, float]:
    """Choose the metrics to print in a progress line."""
    wanted = (
        "loss",
        "reward",
        "kl",
        "alpha/std",
        "entropy",
        "frac_reward_zero_std",
        SHARE,
        "completions/mean_length",
        "mean_token_accuracy",
    )
    return {key: values[key] for key in wanted if key in values}


def passes_over(rows: int, settings: SftConfig | DpoConfig, section: str, processes: int) -> dict[str, Ours]:
    """Return the trainer arguments of passes over rows: a short warm-up, and two checkpoints per epoch.

    Args:
        rows: number of rows, or of pairs.
        settings: epochs, batch size and learning rate, and the batches whose gradients a step sums (`trl`).
        section: name of the settings.
        processes: that share a batch evenly.

    Raises:
        ConfigError: a step is to sum less than one batch.
    """
    summed = settings.trl.get("gradient_accumulation_steps", 1)
    if not isinstance(summed, int):
        summed = 1  # `arguments_of` says what is wrong with it
    require(summed >= 1, f"{section}.trl.gradient_accumulation_steps is {summed}; at least 1")
    steps_per_epoch = -(-rows // settings.batch_size)
    steps_per_epoch = -(-steps_per_epoch // summed)
    return {
        "num_train_epochs": Ours(settings.epochs, f"{section}.epochs"),
        "max_steps": Ours(-1, f"{section}.epochs"),
        "per_device_train_batch_size": Ours(settings.batch_size // processes, f"{section}.batch_size"),
        "learning_rate": Ours(settings.learning_rate, f"{section}.learning_rate"),
        "warmup_steps": Ours(max(1, steps_per_epoch // 10)),
        "save_steps": Ours(-(-steps_per_epoch // 2)),  # rounded up: no checkpoint stands just before the last step
    }


def found_checkpoint(what: str, folder: Path, reporter: Reporter) -> Path | None:
    """Return the newest complete checkpoint, and say that the training resumes from it.

    Args:
        what: name of the training in progress lines.
        folder: of the checkpoints.
        reporter: gets the line.
    """
    with PartialState().main_process_first():  # which removes incomplete ones
        checkpoint = last_checkpoint(folder)
    if checkpoint:
        reporter.log(f"{what} resumes from {checkpoint.name}")
    return checkpoint


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, and remove incomplete ones."""
    import shutil

    while (found := get_last_checkpoint(str(folder)) if folder.is_dir() else None) is not None:
        path = Path(found)
        if (path / _COMPLETE).is_file() and (path / "trainer_state.json").is_file():
            return path
        shutil.rmtree(path)
    return None


def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state that `TrainingStream` stored beside a checkpoint.

    Raises:
        ArtifactError: the state is missing or damaged.
    """
    try:
        return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{checkpoint} cannot be resumed ({error}); delete it to start from the one before"
        ) from error


def save_merged(model: Any, policy: Policy, folder: Path) -> None:
    """Write the policy with its adapters merged in, as safetensors with the tokenizer beside it.

    Adapters that were trained beside weights of four bits are merged into the unquantized weights.
    The adapter is also kept by itself in a folder below. The generation settings are the special tokens alone, and the
    chat template has the defaults that it was trained with.

    Raises:
        TrainingError: a weight is not finite.
    """
    import torch

    adapter = adapter_state(model)
    if policy.unquantized is not None:
        merged = joined(model, policy.unquantized())
    else:
        merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    for name, weight in merged.named_parameters():
        if not torch.isfinite(weight).all():
            raise TrainingError(f"weight {name} is not finite after training; lower the learning rate")
    merged.save_pretrained(folder, max_shard_size="5GB")
    policy.tokenizer.save_pretrained(folder)
    if adapter is not None:
        write_adapter(folder, *adapter)


def common_arguments(seed: int, scratch: Path, device: str, tracking: Tracking) -> dict[str, Ours]:
    """Return the trainer arguments that do not depend on the method.

    On a CPU, bfloat16 autocast and gradient checkpointing, which TRL switches on, cost time and have no benefit here.

    Args:
        seed: of the training.
        scratch: directory for checkpoints.
        device: type of the policy's device, such as `cpu`.
        tracking: what trackers get.
    """
    on_cpu, by_device = device == "cpu", "models.device"
    return {
        "output_dir": Ours(str(scratch / "checkpoints"), "root"),
        "seed": Ours(seed, "seed"),
        "data_seed": Ours(seed, "seed"),
        "use_cpu": Ours(on_cpu, by_device),
        "bf16": Ours(not on_cpu, by_device),
        "gradient_checkpointing": Ours(not on_cpu, by_device),
        "report_to": Ours(list(tracking.report_to) or "none", "execution.report_to"),
        "run_name": Ours(tracking.run_name, "name"),
        "project": Ours("drirl"),
        "logging_strategy": Ours("steps"),
        "logging_steps": Ours(1),
        "logging_nan_inf_filter": Ours(False),  # it would replace a loss that is not finite by the previous one
        "disable_tqdm": Ours(True),
        "eval_strategy": Ours("no"),
        "save_strategy": Ours("steps"),
        "save_total_limit": Ours(2),
        "save_only_model": Ours(False),  # a killed run resumes from a checkpoint
        "push_to_hub": Ours(False),
        "hub_token": Ours(None, "the environment variable HF_TOKEN"),  # settings are stored and shown
        "dataloader_pin_memory": Ours(not on_cpu, by_device),
        "average_tokens_across_devices": Ours(True),  # several processes divide by the tokens of all
    }
