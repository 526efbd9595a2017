"""Trainers of rows whose batches several processes share, so that together they compute what one process would.

A batch of one process is cut into equal parts, one per process. The last batch of an epoch may not divide evenly: it is
filled up with blank rows, in which there is nothing to learn, and sums and means are those of the real rows.
(accelerate would repeat rows of the first batch, which would count twice.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler, SequentialSampler
from trl import DPOTrainer, SFTTrainer

from drirl_core.policy.sharded import ShardedWeights

_MEANS_OF_PAIRS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""TRL's metrics that are means over the pairs of a batch; a blank pair adds 0 to each."""
_LENGTH = 2
"""Tokens of a blank row: one predicts the other, and neither is learned."""


class SharedOrder(Sampler):
    """The order of one process, with the rows of a last batch that is not full spread over the processes.

    Args:
        order: of the real rows, which are numbered first.
        rows: number of real rows.
        total: number of rows with the blank ones, which follow; a multiple of the batch where there are any.
        parts: processes, and rows of a batch in each of them.
        unit: rows that stay together.
    """

    def __init__(self, order: Sampler, rows: int, total: int, parts: tuple[int, int], unit: int) -> None:
        self._order, self._rows, self._total, self._parts, self._unit = order, rows, total, parts, unit

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[int]:
        order, (processes, size) = list(self._order), self._parts
        full = self._rows - self._rows % (processes * size)
        yield from order[:full]
        if self._total == self._rows:
            yield from order[full:]
        else:
            yield from spread(order[full:], range(self._rows, self._total), self._parts, self._unit)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, which the random order depends on."""
        if hasattr(self._order, "set_epoch"):
            self._order.set_epoch(epoch)


def spread(rest: Sequence[int], blanks: Sequence[int], parts: tuple[int, int], unit: int) -> list[int]:
    """Deal the last rows of an epoch out to the processes, and fill up each part with blank rows.

    Args:
        rest: rows of the last batch, fewer than a full one.
        blanks: blank rows, as many as are missing.
        parts: processes, and rows of a batch in each of them.
        unit: rows that stay together; they are beside each other in `rest`.

    Returns:
        A full batch: the parts of the processes, one after the other.
    """
    processes, size = parts
    units = [list(rest[start : start + unit]) for start in range(0, len(rest), unit)]
    filling = iter(blanks)
    batch: list[int] = []
    for process in range(processes):
        own = [row for each in units[process::processes] for row in each]
        batch += own + [next(filling) for _ in range(size - len(own))]
    return batch


class SharedBatches:
    """Share the batches of one of TRL's trainers, the next class in the order of methods; one process changes nothing.

    Args:
        **arguments: of the trainer.
    """

    model: Any
    args: Any
    accelerator: Any
    train_dataset: Any
    processing_class: Any
    unit = 1
    """Rows that stay in one process."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rows = len(self.train_dataset)
        self._size = self.args.per_device_train_batch_size
        missing = -self.rows % (self._size * self.accelerator.num_processes)
        if self.accelerator.num_processes > 1 and missing and not self.args.dataloader_drop_last:
            blanks = Dataset.from_list([self._blank_row()] * missing, features=self.train_dataset.features)
            self.train_dataset = concatenate_datasets([self.train_dataset, blanks])

    def _blank_row(self) -> dict[str, Any]:
        """Return a row of the prepared data set in which there is nothing to learn."""
        first = self.train_dataset[0]
        return {**first, **{name: value for name, value in self._blank().items() if name in first}}

    def _blank(self) -> dict[str, Any]:
        """Return the columns in which a blank row differs from another row."""
        raise NotImplementedError

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if self.accelerator.num_processes == 1:
            return sampler
        real = range(self.rows)
        order = (
            SequentialSampler(real)
            if isinstance(sampler, SequentialSampler)
            else SeedableRandomSampler(real, data_seed=self.args.data_seed)  # what accelerate makes of the random one
        )
        parts = (self.accelerator.num_processes, self._size)
        return SharedOrder(order, self.rows, len(self.train_dataset), parts, self.unit)


class SharedSftTrainer(SharedBatches, ShardedWeights, SFTTrainer):
    """TRL's trainer, which divides the loss by the learned tokens of all processes; a blank row has none.

    Args:
        **arguments: of `SFTTrainer`.
    """

    def _blank(self) -> dict[str, Any]:
        ids = [self.processing_class.eos_token_id] * _LENGTH
        return {"input_ids": ids, "labels": [-100] * _LENGTH, "completion_mask": [0] * _LENGTH, "pair": -1}


class SharedDpoTrainer(SharedBatches, ShardedWeights, DPOTrainer):
    """TRL's trainer, whose means over a batch are made means over its real pairs.

    Both answers of a blank pair are empty, so that it adds a constant to the loss and nothing to the gradient.

    Args:
        **arguments: of `DPOTrainer`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._constant: float | None = None

    def _blank(self) -> dict[str, Any]:
        prompt = [self.processing_class.eos_token_id] * _LENGTH
        empty: dict[str, Any] = {"prompt_ids": prompt, "chosen_ids": [], "rejected_ids": []}
        return {**empty, "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        loss = super()._compute_loss(model, inputs, return_outputs)
        if self.accelerator.num_processes == 1 or not self.model.training:
            return loss
        answers = inputs["completion_mask"].any(dim=1).chunk(2)
        real = int(self.accelerator.gather((answers[0] | answers[1]).sum()).sum())
        slots = len(answers[0]) * self.accelerator.num_processes
        if real == slots:
            return loss
        for name in _MEANS_OF_PAIRS:
            self._metrics["train"][name][-1] *= slots / real
        # The mean of `loss` over the processes is (sum of the real pairs' losses + (slots - real) * constant) / slots.
        return loss * (slots / real) - self._loss_of_a_blank() * (slots - real) / real

    def _loss_of_a_blank(self) -> float:
        """Return the loss of a blank pair, which does not depend on the policy."""
        if self._constant is None:
            kept = {name: list(values) for name, values in self._metrics["train"].items()}
            tokens = self._total_train_tokens
            inputs = self._prepare_inputs(self.data_collator([self._blank_row()]))
            with torch.no_grad():
                self._constant = float(super()._compute_loss(self.model, inputs, False))
            self._metrics["train"].clear()
            self._metrics["train"].update(kept)
            self._total_train_tokens = tokens
        return self._constant
