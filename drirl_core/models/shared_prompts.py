"""Compute a prompt that several rows share only once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import peft
import torch
from transformers import DynamicCache


@contextlib.contextmanager
def prompts_once(model: Any, width: int | None = None) -> Iterator[None]:
    """Run each distinct prompt through the decoder once for all its completions, with gradients.

    The completions of a group share their prompt, but TRL and `generate` compute it for each of them. Here the keys and
    values of the distinct prompts are computed once and passed to every row. The results are equal up to rounding.

    Args:
        model: a transformers or PEFT model.
        width: tokens of the padded prompts, which come first in every row; None when rows hold only prompts, as in the
            first pass of `generate`.
    """
    decoder = (model.get_base_model() if isinstance(model, peft.PeftModel) else model).get_decoder()
    forward = decoder.forward

    def once(input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        cache = kwargs.pop("past_key_values", None)
        begun = cache is not None and cache.get_seq_length() > 0
        prompt = input_ids.shape[1] if width is None and input_ids is not None else width
        if input_ids is None or attention_mask is None or begun or not prompt or prompt > input_ids.shape[1]:
            return forward(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **kwargs)
        marked = torch.cat([input_ids[:, :prompt], attention_mask[:, :prompt].to(input_ids)], dim=1)
        _, of_row = torch.unique(marked, dim=0, return_inverse=True)  # (B,)
        first = torch.stack([(of_row == number).nonzero()[0, 0] for number in range(int(of_row.max()) + 1)])
        if len(first) == len(input_ids):
            return forward(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **kwargs)
        positions = kwargs.pop("position_ids", None)  # (B, T)
        at = {} if positions is None else {"position_ids": positions[first, :prompt]}
        cache = DynamicCache(config=decoder.config) if cache is None else cache
        shared = {**kwargs, "past_key_values": cache, "use_cache": True}
        found = forward(
            input_ids=input_ids[first, :prompt], attention_mask=attention_mask[first, :prompt], **at, **shared
        )
        cache.batch_select_indices(of_row)
        hidden = found.last_hidden_state[of_row]  # (B, prompt, H)
        if prompt < input_ids.shape[1]:
            at = {} if positions is None else {"position_ids": positions[:, prompt:]}
            shared.pop("cache_position", None)
            rest = forward(input_ids=input_ids[:, prompt:], attention_mask=attention_mask, **at, **shared)
            hidden = torch.cat([hidden, rest.last_hidden_state], dim=1)  # (B, T, H)
        found.last_hidden_state = hidden
        found.past_key_values = cache
        return found

    decoder.forward = once
    try:
        yield
    finally:
        del decoder.forward  # restores the class's method
