"""The contract with TRL and accelerate on which several processes rely, each looked at in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import DPOConfig, GRPOConfig, SFTConfig
from trl.trainer.utils import RepeatSampler

from drirl_core.config import ModelsConfig
from drirl_core.models.loading import load_policy
from drirl_core.policy.together import SharedDpoTrainer, SharedSftTrainer

ARGUMENTS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "per_device_train_batch_size": 4,
    "average_tokens_across_devices": True,
}


def _gradients(trainer: Any, rows: list[dict[str, Any]], tokens: int | None = None) -> tuple[float, list[torch.Tensor]]:
    """Return the loss of rows and its gradient."""
    trainer.model.zero_grad()
    trainer.model.train()
    inputs = trainer._prepare_inputs(trainer.data_collator(rows))
    loss = (
        trainer._compute_loss(trainer.model, inputs, False)
        if tokens is None
        else trainer.compute_loss(trainer.model, inputs, num_items_in_batch=tokens)
    )
    loss.backward()
    gradients = [weight.grad.clone() for weight in trainer.model.parameters() if weight.grad is not None]
    return float(loss), gradients


def _close(left: list[torch.Tensor], right: list[torch.Tensor], factor: float = 1.0) -> bool:
    return len(left) == len(right) and all(
        torch.allclose(a, b * factor, atol=1e-6, rtol=1e-4) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "apo_zero"])
def test_a_blank_pair_adds_a_constant_and_no_gradient(
    tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path, loss_type: str
) -> None:
    policy = load_policy(tiny_policy, tiny_models)
    pairs = [{"prompt": f"say {i}", "chosen": "no" * (1 + i), "rejected": "yes, of course"} for i in range(3)]
    trainer = SharedDpoTrainer(
        model=policy.model,
        args=DPOConfig(str(tmp_path), **ARGUMENTS, loss_type=loss_type, beta=0.3),
        train_dataset=Dataset.from_list(pairs),
        processing_class=policy.tokenizer,
    )
    assert trainer.rows == len(trainer.train_dataset) == 3  # of one process no batch is filled up
    rows = [dict(row) for row in trainer.train_dataset]
    loss, gradients = _gradients(trainer, rows)
    filled, same = _gradients(trainer, [*rows, trainer._blank_row(), trainer._blank_row()])
    assert filled == pytest.approx((3 * loss + 2 * trainer._loss_of_a_blank()) / 5, abs=1e-6)
    assert any(float(gradient.abs().max()) > 1e-4 for gradient in gradients)
    assert _close(gradients, same, 5 / 3)
    empty, nothing = _gradients(trainer, [trainer._blank_row()] * 2)  # a process may have none but blank pairs
    assert empty == pytest.approx(trainer._loss_of_a_blank(), abs=1e-6)
    assert len(nothing) == len(gradients)
    assert all(float(gradient.abs().max()) == 0 for gradient in nothing)


def test_a_blank_row_of_fine_tuning_adds_nothing(tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path) -> None:
    policy = load_policy(tiny_policy, tiny_models)
    rows = [
        {"input_ids": list(range(60 + i, 70 + 2 * i)), "completion_mask": [0] * 6 + [1] * (4 + i)} for i in range(3)
    ]
    trainer = SharedSftTrainer(
        model=policy.model,
        args=SFTConfig(str(tmp_path), **ARGUMENTS, completion_only_loss=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )
    given = [dict(row) for row in trainer.train_dataset]
    loss, gradients = _gradients(trainer, given, 15)
    assert loss > 1
    filled, same = _gradients(trainer, [*given, trainer._blank_row()], 15)
    assert filled == pytest.approx(loss, abs=1e-6)
    assert _close(gradients, same)
    empty, nothing = _gradients(trainer, [trainer._blank_row()], 15)
    assert (empty, len(nothing)) == (0.0, len(gradients))


def test_a_process_gets_its_part_of_the_batch_of_one(tmp_path: Path) -> None:
    """Two prompts of a step, two completions each, in two processes: process by process the rows of one."""
    order = RepeatSampler(range(4), mini_repeat_count=2, batch_size=2, repeat_count=1, shuffle=False)
    parts = [
        list(prepare_data_loader(DataLoader(range(4), 2, sampler=order), num_processes=2, process_index=process))
        for process in (0, 1)
    ]
    steps = [torch.cat([one, other]).tolist() for one, other in zip(*parts, strict=True)]
    assert steps == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_transformers_takes_the_number_of_gpus_from_where_it_is_set(tmp_path: Path) -> None:
    """`arguments_of` sets it to 1 where torch sees several: otherwise each would get a batch of its own."""
    arguments = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=2)
    arguments._n_gpu = 3
    assert (arguments.n_gpu, arguments.train_batch_size) == (3, 12)
    arguments._n_gpu = 1
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)
