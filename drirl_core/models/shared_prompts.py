"""Compute what rows of a batch share only once: the beginning of the chat template, and the prompt of a group."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import peft
import torch
from transformers import DynamicCache

from drirl_core.models.sharding import is_sharded

_LEAST_START = 8
"""Tokens in common below which a pass of their own costs more than it saves."""


@contextlib.contextmanager
def start_once(model: Any) -> Iterator[None]:
    """Run the tokens with which all rows of a batch begin through the decoder once, with gradients.

    A chat template puts the same system message before every prompt, a third of the tokens of a short row. Here its
    keys and values are computed for one row and passed to all. The results are equal up to rounding.

    Args:
        model: a transformers or PEFT model; one whose layers are not all plain attention is left as it is, and one
            whose weights are sharded, because its processes have to make equally many passes.
    """
    decoder = _decoder(model)
    layer_types = getattr(getattr(decoder, "config", None), "layer_types", None) or ["full_attention"]
    if decoder is None or set(layer_types) != {"full_attention"} or is_sharded(model):
        yield
        return
    forward = decoder.forward
    begun_with: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # a cache, to its tokens in common

    def once(input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        cache, positions = kwargs.pop("past_key_values", None), kwargs.pop("position_ids", None)
        begun = cache is not None and cache.get_seq_length() > 0
        if input_ids is not None and attention_mask is None:
            seen = cache.get_seq_length() if begun else 0
            attention_mask = input_ids.new_ones(len(input_ids), seen + input_ids.shape[1])
        start = begun_with.get(cache, 0) if begun else _shared_start(input_ids, attention_mask, kwargs)
        if start == 0:
            return forward(input_ids, attention_mask, past_key_values=cache, position_ids=positions, **kwargs)
        if positions is None:
            positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        order = _Order.of(attention_mask, start)
        shared = {**kwargs, "use_cache": True}
        if begun:
            return forward(
                input_ids, order.mask(attention_mask), past_key_values=cache, position_ids=positions, **shared
            )
        cache = DynamicCache(config=decoder.config) if cache is None else cache
        begun_with[cache] = start
        first = order.common[:1]  # (1, start), columns in row 0
        head = forward(
            input_ids[:1].gather(1, first), past_key_values=cache,
            position_ids=positions.expand(len(input_ids), -1)[:1].gather(1, first), **shared,
        )  # fmt: skip
        cache.batch_select_indices(torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device))
        found = forward(
            input_ids.gather(1, order.rest), order.mask(attention_mask), past_key_values=cache,
            position_ids=positions.expand(len(input_ids), -1).gather(1, order.rest), **shared,
        )  # fmt: skip
        heads = head.last_hidden_state.expand(len(input_ids), -1, -1)
        states = torch.cat([heads, found.last_hidden_state], dim=1)  # (B, T, H), the common tokens first
        found.last_hidden_state = states.gather(1, order.back.unsqueeze(-1).expand_as(states))
        found.past_key_values = cache
        return found

    with mock.patch.object(decoder, "forward", once):
        yield


class _Order(NamedTuple):
    """Columns of a padded batch with the tokens that all rows have in common moved to the front.

    Args:
        common: columns of the common tokens, (B, S).
        rest: columns of the others, (B, T - S).
        back: for every column its place in `common` and `rest` put together, (B, T).
    """

    common: torch.Tensor
    rest: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor, start: int) -> _Order:
        padding = mask.long().argmax(dim=1, keepdim=True)  # on the left, (B, 1)
        columns = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        others = columns[:, : mask.shape[1] - start]
        return cls(
            padding + columns[:, :start],
            torch.where(others < padding, others, others + start),
            torch.where(
                columns < padding, columns + start, torch.where(columns < padding + start, columns - padding, columns)
            ),
        )

    def mask(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the attention mask in this order."""
        return torch.cat([torch.ones_like(mask[:, : self.common.shape[1]]), mask.gather(1, self.rest)], dim=1)


def _shared_start(input_ids: Any, mask: Any, kwargs: Any) -> int:
    """Count the tokens with which all rows begin, without the last token of the shortest; 0 where it does not pay."""
    more = kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
    if input_ids is None or mask.dim() != 2 or len(input_ids) < 2 or mask.shape != input_ids.shape or more:
        return 0
    padding, shortest = mask.long().argmax(dim=1, keepdim=True), int(mask.sum(dim=1).min())
    columns = padding + torch.arange(max(shortest - 1, 0), device=mask.device)
    heads = input_ids.gather(1, columns)  # (B, shortest - 1)
    start = int((heads == heads[:1]).all(dim=0).long().cumprod(dim=0).sum())
    return start if start >= _LEAST_START else 0


@contextlib.contextmanager
def prompts_once(model: Any, width: int | None = None) -> Iterator[None]:
    """Run each distinct prompt through the decoder once for all its completions, with gradients.

    The completions of a group share their prompt, but TRL and `generate` compute it for each of them. Here the keys and
    values of the distinct prompts are computed once and passed to every row. The results are equal up to rounding.

    Args:
        model: a transformers or PEFT model; one whose weights are sharded is left as it is.
        width: tokens of the padded prompts, which come first in every row; None when rows hold only prompts, as in the
            first pass of `generate`.
    """
    if is_sharded(model):
        yield
        return
    decoder = _decoder(model)
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

    with mock.patch.object(decoder, "forward", once):
        yield


def _decoder(model: Any) -> Any:
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    return base.get_decoder() if hasattr(base, "get_decoder") else None
