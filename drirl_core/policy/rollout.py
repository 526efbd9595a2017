"""Records of a rollout: what the trainer passes to the source of coefficients, and what it returns.

Shapes: B rows of this process, one per completion; rows of one prompt are adjacent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from drirl_core import taxonomy
from drirl_core.errors import DataError


@dataclass(frozen=True)
class RolloutBatch:
    """The part of one process of a generation batch, with rewards.

    Args:
        prompts: user messages, B texts.
        completions: completions with their drafts, B texts.
        categories: category of each prompt, B names; `helpful` for harmless prompts.
        prompt_ids: B ids; all completions of a prompt share one.
        kinds: kind of each prompt, B names: `unsafe`, `general` or `look_alike`.
        demonstrations: answer of each prompt's demonstration, B texts.
        rewards: reward of each completion, rounded to float32 as in TRL, float64, (B,).

    Raises:
        DataError: the columns differ in length.
    """

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    categories: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    demonstrations: tuple[str, ...]
    rewards: np.ndarray

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1:
            raise DataError(f"a rollout batch needs columns of one length; got {lengths}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def harm(self) -> np.ndarray:
        """True where the prompt belongs to a harm category, bool, (B,)."""
        return np.array([category != taxonomy.HELPFUL for category in self.categories])

    @classmethod
    def of(
        cls,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        rewards: Sequence[float],
        columns: Mapping[str, Sequence[Any]],
    ) -> RolloutBatch:
        """Make the record from the arguments that TRL passes to a reward function.

        Args:
            prompts: messages of each row.
            completions: messages of each row.
            rewards: one per row.
            columns: data set columns `category`, `prompt_id`, `kind` and `demonstration`; others are ignored.

        Raises:
            DataError: a column is missing, or the columns differ in length.
        """
        try:
            named = [tuple(map(str, columns[name])) for name in ("category", "prompt_id", "kind", "demonstration")]
        except KeyError as error:
            raise DataError(f"the training rows have no column {error}; see schedule.training_prompts") from error
        texts = tuple(map(message_text, prompts)), tuple(map(message_text, completions))
        return cls(*texts, *named, rewards=np.asarray(rewards, dtype=np.float32).astype(np.float64))


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Args:
        index: rank of this process, from 0.
        gather: collects the rows of all processes, in the order of their ranks; all processes must call it.
    """

    index: int = 0
    gather: Callable[[list[Any]], list[Any]] = list


@dataclass(frozen=True)
class RolloutCoefficients:
    """Weights of the advantages of a rollout batch.

    Args:
        alpha: at least 0, mean 1 over the rows of all processes before groups without spread are set to 0, float64,
            (B,).
        metrics: what to log, over the rows of all processes.
    """

    alpha: np.ndarray
    metrics: Mapping[str, float]


class CoefficientSource(Protocol):
    """Return alpha for a rollout batch."""

    def coefficients(self, batch: RolloutBatch, processes: Processes) -> RolloutCoefficients:
        """Return alpha for the rows of `batch`; called once per generation batch, in all processes."""
        ...


def message_text(messages: Any) -> str:
    """Return the text of a prompt or completion, given as a text or as messages, of which the last one is used."""
    return messages if isinstance(messages, str) else str(messages[-1]["content"])
