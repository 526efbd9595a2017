"""What an adapter reads: the tokens of prompts and completions, one after the other, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from drirl_core.models.token_rows import TokenRow
from drirl_core.rewards.backbones.hidden_state import intact
from drirl_core.rewards.pairs import Pool, PoolPrompt, by_prompt

if TYPE_CHECKING:
    from drirl_core.models.hidden_states import HiddenStates


def read_pool(prompts: Sequence[PoolPrompt], source: HiddenStates) -> Pool:
    """Tokenise a pool.

    Args:
        prompts: P prompts, at least one.
        source: gives the tokens.

    Returns:
        The pool; `own` and `others` are tokens and counts of each row, (P, T) and (P, 2), (P, K, T) and (P, K, 2).
    """
    users = [p.prompt for p in prompts for _ in range(1 + len(p.replies))]
    answers = [text for p in prompts for text in (p.answer, *(reply.answer for reply in p.replies))]
    own, others = zip(*(by_prompt(prompts, read) for read in padded(source.tokens(users, answers))), strict=True)
    return Pool.of(prompts, own, others, intact)


def padded(rows: Sequence[TokenRow]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens with zeros behind, int64, (B, T), and counts of the prompt's tokens and of all, int64, (B, 2)."""
    width = max((len(row.prompt) + len(row.completion) for row in rows), default=0)
    ids, counts = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), 2), dtype=np.int64)
    for i, row in enumerate(rows):
        end = len(row.prompt) + len(row.completion)
        ids[i, :end], counts[i] = (*row.prompt, *row.completion), (len(row.prompt), end)
    return ids, counts


def widened(ids: torch.Tensor, width: int) -> torch.Tensor:
    """Pad tokens with zeros to a width, (..., T) -> (..., width)."""
    return torch.nn.functional.pad(ids, (0, width - ids.shape[-1]))
