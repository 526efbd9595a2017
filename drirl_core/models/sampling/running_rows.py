"""Decode without the rows that have ended: `generate` keeps computing them until the last row of a batch ends."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from transformers import DynamicCache

from drirl_core.models.shared_prompts import is_plain, without_adapters

_LEAST_SHARE = 1 / 8
"""Share of the rows that must have ended before their keys and values are dropped, which copies those of the others."""
_LEAST_ROWS = 2
"""Rows that are always computed: for a single one torch takes another kernel, which sums in another order."""


@contextlib.contextmanager
def running_rows(model: Any, ends: Sequence[int]) -> Iterator[None]:
    """Let `model.generate` compute only rows without an end token; on a CPU, where each row of a step costs time.

    What a row gets does not depend on the rows beside it, but for rounding; where it was measured (bfloat16, Zen 4) the
    others are the same bits. Logits of rows that have ended are 0, and `generate` takes no token from them.

    Args:
        model: a transformers or PEFT model; one whose layers are not all plain attention is left unchanged, and one
            whose weights are sharded.
        ends: tokens that end a row.
    """
    base = without_adapters(model)
    if model.device.type != "cpu" or not is_plain(model):
        yield
        return
    forward, last = base.forward, torch.tensor(ends, dtype=torch.long)
    over = running = torch.zeros(0)  # whether each row has ended, (B,); rows of which the cache has keys and values
    own: Any = None  # that cache

    @functools.wraps(forward)  # `generate` reads its arguments
    def some(**inputs: Any) -> Any:
        nonlocal over, running, own
        cache, ids = inputs.get("past_key_values"), inputs.get("input_ids")
        if not isinstance(cache, DynamicCache) or ids is None:
            return forward(**inputs)
        if cache.get_seq_length() == 0:
            over, running, own = torch.zeros(len(ids), dtype=torch.bool), torch.arange(len(ids)), cache
        if cache is not own or cache.get_seq_length() == 0:
            return forward(**inputs)
        over = over | torch.isin(ids[:, -1], last)
        going = ~over[running]
        if len(running) - going.sum() >= max(1, _LEAST_SHARE * len(running)) and going.sum() >= _LEAST_ROWS:
            cache.batch_select_indices(going.nonzero().squeeze(1))
            running = running[going]
        if len(running) == len(ids):
            return forward(**inputs)
        found = forward(**{name: value[running] if _has_rows(value, ids) else value for name, value in inputs.items()})
        found.logits = found.logits.new_zeros(len(ids), *found.logits.shape[1:]).index_copy_(0, running, found.logits)
        return found

    with mock.patch.object(base, "forward", some):
        yield


def _has_rows(value: Any, ids: torch.Tensor) -> bool:
    """Say whether an argument of a forward pass has a line per row: mask, positions and the tokens themselves."""
    return isinstance(value, torch.Tensor) and value.dim() == 2 and len(value) == len(ids)
