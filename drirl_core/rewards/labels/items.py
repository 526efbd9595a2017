"""Labelled completions as reward data: what is compared with what, and as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from drirl_core.rewards.labels.rows import RIGHT
from drirl_core.rewards.pairs import PoolPrompt
from drirl_core.store.tables import normalise, read_table

COLUMNS = ("item", "prompt_id", "prompt", "split", "pair", "answer", "label")
"""Columns of `labels.parquet` that reward learning reads."""


@dataclass(frozen=True)
class LabelledItem:
    """Completions of one prompt that are compared with each other: all labelled ones, or a preference pair.

    Args:
        prompt_id: content hash of the prompt.
        prompt: the user message.
        split: `train`, `validation` or `test`.
        right: right or chosen answers.
        wrong: wrong or rejected answers; one of the two may be empty.
        pair: whether it is a preference pair.
    """

    prompt_id: str
    prompt: str
    split: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    pair: bool = False

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers, the right ones first."""
        return (*self.right, *self.wrong)


def read_items(folder: Path) -> list[LabelledItem]:
    """Read what the stage `reward_labels` wrote.

    Args:
        folder: directory of the artifact.

    Raises:
        DataError: the table cannot be read.
    """
    rows: dict[int, list[dict[str, str]]] = {}
    for row in read_table(folder / "labels.parquet", COLUMNS):
        rows.setdefault(row["item"], []).append(row)
    return [
        LabelledItem(
            own[0]["prompt_id"],
            own[0]["prompt"],
            own[0]["split"],
            tuple(row["answer"] for row in own if row["label"] == RIGHT),
            tuple(row["answer"] for row in own if row["label"] != RIGHT),
            bool(own[0]["pair"]),
        )
        for _, own in sorted(rows.items())
    ]


def beside_demonstrations(items: Sequence[LabelledItem], prompts: Sequence[PoolPrompt]) -> list[LabelledItem]:
    """Count the demonstration of a prompt among its right completions, where some are labelled wrong.

    Args:
        items: labelled completions.
        prompts: prompts with demonstrations.

    Returns:
        The items in their order; preference pairs and items whose demonstration was labelled are unchanged.
    """
    known = {p.prompt_id: p.answer for p in prompts}
    return [
        replace(item, right=(*item.right, known[item.prompt_id]))
        if item.wrong
        and not item.pair
        and item.prompt_id in known
        and normalise(known[item.prompt_id]) not in map(normalise, item.answers)
        else item
        for item in items
    ]


def without_labelled_right(prompts: Sequence[PoolPrompt], items: Sequence[LabelledItem]) -> list[PoolPrompt]:
    """Leave completions that people labelled right out of the pools, where they would count against the demonstration.

    Args:
        prompts: prompts with their pools.
        items: labelled completions; what is chosen in a preference pair may still be wrong, and stays.

    Returns:
        The prompts that still have a completion.
    """
    right = {(item.prompt_id, normalise(a)) for item in items if not item.pair for a in item.right}
    if not right:
        return list(prompts)
    rest = [
        replace(p, replies=tuple(r for r in p.replies if (p.prompt_id, normalise(r.answer)) not in right))
        for p in prompts
    ]
    return [p for p in rest if p.replies]


@dataclass(frozen=True)
class LabelledRows:
    """Items as tensors: N rows that a backbone read, of L items with at most M rows each.

    Args:
        inputs: what the model's `forward` takes for the rows, tensors (N, ...).
        rows: number of each item's rows, int, (L, M); 0 where there is none.
        right: true where there is a right one, bool, (L, M).
        wrong: true where there is a wrong one, bool, (L, M).
    """

    inputs: tuple[torch.Tensor, ...]
    rows: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor

    @classmethod
    def of(
        cls, items: Sequence[LabelledItem], read: Callable[[list[str], list[str]], tuple[np.ndarray, ...]]
    ) -> LabelledRows:
        """Read the rows of items once.

        Args:
            items: L items, at least one, each with an answer.
            read: what a backbone makes of prompts and answers, arrays (N, ...).
        """
        prompts = [item.prompt for item in items for _ in item.answers]
        answers = [answer for item in items for answer in item.answers]
        shape = (len(items), max(len(item.answers) for item in items))
        rows = np.zeros(shape, dtype=np.int64)
        right, wrong = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        start = 0
        for i, item in enumerate(items):
            first, count = len(item.right), len(item.answers)
            rows[i, :count] = np.arange(start, start + count)
            right[i, :first], wrong[i, first:count] = True, True
            start += count
        # Copied into torch's own memory, as pools are, so that fits are the same to the bit.
        inputs = tuple(torch.tensor(values) for values in read(prompts, answers))
        return cls(inputs, torch.tensor(rows), torch.tensor(right), torch.tensor(wrong))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def part(self, chosen: torch.Tensor) -> LabelledRows:
        """Return some of the items, by index, (l,); an index may come twice. The rows stay where they are."""
        return LabelledRows(self.inputs, self.rows[chosen], self.right[chosen], self.wrong[chosen])

    def rewards(self, model: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Return the raw rewards of the items' rows, differentiable, (L, M); meaningless where there is no row."""
        flat = self.rows.flatten()
        return model(*(values[flat] for values in self.inputs)).view(self.rows.shape)
