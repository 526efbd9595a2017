"""What of a training several processes may share, and which options would make their number decide the result.

Reading this module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drirl_core.config import Config
from drirl_core.graph.record import Batch

_OF_ONE_PROCESS: Mapping[str, str] = {
    "accelerator_config": "decides how batches are divided",
    "auto_find_batch_size": "changes the batch in each process",
    "train_sampling_strategy": "orders rows by the batch of a process",
    "entropy_coef": "weights the mean entropy of a process",
    "use_adaptive_entropy": "weights the mean entropy of a process",
}
"""Options of TRL under which processes together would not compute what one does."""
_LOSSES_OF_ONE_PROCESS = {"aot": "sorts", "aot_unpaired": "sorts", "sft": "averages over the tokens of"}
"""Losses of DPO that are no mean over pairs."""


def batch_of_sft(config: Config) -> Batch:
    """Return the batch of supervised fine-tuning; twins that are compared stay together."""
    return Batch(config.sft.batch_size, 2 if config.sft.contrast else 1, "sft.batch_size")


def batch_of_pairs(config: Config) -> Batch:
    """Return the batch of DPO."""
    return Batch(config.dpo.batch_size, 1, "dpo.batch_size")


def batch_of_rollouts(config: Config) -> Batch:
    """Return the batch of GRPO and RLOO: the completions of a step."""
    rows = config.policy.prompts_per_step * config.policy.num_generations
    return Batch(rows, 1, "policy.prompts_per_step * policy.num_generations")


def micro_batch(settings: Any, rows: int) -> int:
    """Return how many of the completions of a process are computed at once.

    Args:
        settings: `policy`.
        rows: completions of a step in this process.

    Returns:
        The largest divisor of `rows` up to `policy.micro_batch`.
    """
    most = min(settings.micro_batch or rows, rows)
    return next(size for size in range(most, 0, -1) if rows % size == 0)


def unshared(config: Config, sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say which settings of a training would make the number of processes decide its result.

    Args:
        config: the complete configuration.
        sections: options of TRL by dotted name of the setting, such as `policy.trl`.
    """
    most = config.execution.most_processes(config.models.device != "cpu")
    if most < 2:
        return
    way_out = (
        f"with {most} processes (execution.processes, execution.gpu.count), so that their number would decide "
        "the result"
    )
    if config.policy.loss == "bnpo" and "policy.trl" in sections:
        yield (
            f"policy.loss bnpo divides by the tokens of a process {way_out}; choose another loss, or set "
            "execution.processes to 1"
        )
    for section, options in sections.items():
        for name in _OF_ONE_PROCESS.keys() & {name for name, value in options.items() if value}:
            yield f"{section}.{name} {_OF_ONE_PROCESS[name]} {way_out}; take it out, or set execution.processes to 1"
    losses = sections.get("dpo.trl", {}).get("loss_type", ())
    for loss in [losses] if isinstance(losses, str) else losses:
        if loss in _LOSSES_OF_ONE_PROCESS:
            yield (
                f"dpo.trl.loss_type {loss} {_LOSSES_OF_ONE_PROCESS[loss]} the pairs of a process {way_out}; choose "
                "another loss, or set execution.processes to 1"
            )
