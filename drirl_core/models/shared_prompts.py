"""Compute what rows of a batch share only once: the beginning of the chat template, and the prompt of a group.

What is left of the rows runs behind it: on a CPU in tiles of rows of similar length, so that little is padded.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import peft
import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from drirl_core.models.sharding import is_sharded

_LEAST_START = 8
"""Tokens in common below which a pass of their own costs more than it saves."""
_PASS_TOKENS = 48
"""Tokens that a further pass of a small model costs as much as on a CPU; more tiles than that saves are not made."""


@contextlib.contextmanager
def start_once(model: Any) -> Iterator[None]:
    """Run the tokens with which all rows of a batch begin through the decoder once, with gradients.

    A chat template puts the same system message before every prompt, a third of the tokens of a short row. Here its
    keys and values are computed for one row and passed to all. The results are equal up to rounding.

    Args:
        model: a transformers or PEFT model; one whose layers are not all plain attention is left unchanged, and one
            whose weights are sharded, because its processes have to make equally many passes.
    """
    decoder = decoder_of(model)
    if not is_plain(model):
        yield
        return
    forward = decoder.forward

    def once(input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        cache, positions = kwargs.pop("past_key_values", None), kwargs.pop("position_ids", None)
        begun = cache is not None and cache.get_seq_length() > 0
        if input_ids is not None and attention_mask is None and not begun:
            attention_mask = torch.ones_like(input_ids)
        start = 0 if begun else _shared_start(input_ids, attention_mask, kwargs)
        if start == 0:
            return forward(input_ids, attention_mask, past_key_values=cache, position_ids=positions, **kwargs)
        positions = _positions(attention_mask) if positions is None else positions.expand(len(input_ids), -1)
        order = _Order.of(attention_mask, start)
        kept = cache is not None or kwargs.pop("use_cache", None) is not False
        shared = {**kwargs, "use_cache": True}
        cache = DynamicCache(config=decoder.config) if cache is None else cache
        first = order.common[:1]  # (1, start), columns in row 0
        head = forward(
            input_ids[:1].gather(1, first), past_key_values=cache, position_ids=positions[:1].gather(1, first), **shared
        )
        rest = _Rows(input_ids.gather(1, order.rest), order.mask(attention_mask), positions.gather(1, order.rest))
        of_row = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        found = _behind(forward, cache, of_row, rest, rest.own, kept=kept, **shared)
        heads = head.last_hidden_state.expand(len(input_ids), -1, -1)
        states = torch.cat([heads, found.last_hidden_state], dim=1)  # (B, T, H), the common tokens first
        found.last_hidden_state = states.gather(1, order.back.unsqueeze(-1).expand_as(states))
        if kept:
            for layer in cache.layers:
                back = order.back[:, None, :, None]
                layer.keys = layer.keys.gather(2, back.expand_as(layer.keys))
                layer.values = layer.values.gather(2, back.expand_as(layer.values))
        found.past_key_values = cache if kept else None
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
    per_layer = asks_of_each_layer(kwargs)
    if input_ids is None or mask.dim() != 2 or len(input_ids) < 2 or mask.shape != input_ids.shape or per_layer:
        return 0
    padding, shortest = mask.long().argmax(dim=1, keepdim=True), int(mask.sum(dim=1).min())
    columns = padding + torch.arange(max(shortest - 1, 0), device=mask.device)
    heads = input_ids.gather(1, columns)  # (B, shortest - 1)
    start = int((heads == heads[:1]).all(dim=0).long().cumprod(dim=0).sum())
    return start if start >= _LEAST_START else 0


@contextlib.contextmanager
def prompts_once(model: Any, width: int | None = None, *, ends: bool = True) -> Iterator[None]:
    """Run each distinct prompt through the decoder once for all its completions, with gradients.

    The completions of a group share their prompt, but TRL and `generate` compute it for each of them. Here the keys and
    values of the distinct prompts are computed once and passed to every row. The results are equal up to rounding.

    Args:
        model: a transformers or PEFT model; one whose weights are sharded is left unchanged.
        width: tokens of the padded prompts, which come first in every row; None when rows hold only prompts, as in the
            first pass of `generate`.
        ends: whether the states of rows' last tokens, which predict nothing, are asked for; else they mean nothing.
    """
    if is_sharded(model):
        yield
        return
    decoder = decoder_of(model)
    forward = decoder.forward

    def once(input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        cache = kwargs.pop("past_key_values", None)
        begun = cache is not None and cache.get_seq_length() > 0
        prompt = input_ids.shape[1] if width is None and input_ids is not None else width
        undivided = begun or asks_of_each_layer(kwargs)
        if input_ids is None or attention_mask is None or undivided or not prompt or prompt > input_ids.shape[1]:
            return forward(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **kwargs)
        first, of_row = _distinct(input_ids[:, :prompt], attention_mask[:, :prompt])
        if len(first) == len(input_ids):
            return forward(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, **kwargs)
        positions = kwargs.pop("position_ids", None)
        positions = _positions(attention_mask) if positions is None else positions.expand(len(input_ids), -1)  # (B, T)
        kept = cache is not None or kwargs.pop("use_cache", None) is not False
        cache = DynamicCache(config=decoder.config) if cache is None else cache
        shared = {**kwargs, "use_cache": True}
        found = forward(
            input_ids=input_ids[first, :prompt],
            attention_mask=attention_mask[first, :prompt],
            position_ids=positions[first, :prompt],
            past_key_values=cache,
            **shared,
        )
        hidden = found.last_hidden_state[of_row]  # (B, prompt, H)
        if prompt == input_ids.shape[1]:
            cache.batch_select_indices(of_row)
        else:
            shared.pop("cache_position", None)
            rest = _Rows(input_ids[:, prompt:], attention_mask, positions[:, prompt:])
            needed = rest.own if ends else pad(rest.own[:, 1:], (0, 1))
            found = _behind(forward, cache, of_row, rest, needed, kept=kept, **shared)
            hidden = torch.cat([hidden, found.last_hidden_state], dim=1)  # (B, T, H)
        found.last_hidden_state = hidden
        found.past_key_values = cache if kept else None
        return found

    with mock.patch.object(decoder, "forward", once):
        yield


def asks_of_each_layer(asked: Mapping[str, Any]) -> bool:
    """Say whether a pass is to return something of each layer, which a pass in parts has of its last part alone.

    Args:
        asked: arguments of a decoder's forward pass, by name.
    """
    return any(asked.get(f"output_{what}") for what in ("hidden_states", "attentions", "router_logits"))


def _distinct(*columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the place of the first row of each kind, and for each row the number of its kind, (B,)."""
    marked = torch.cat([part.long() for part in columns], dim=1)
    _, kind = torch.unique(marked, dim=0, return_inverse=True)
    return torch.stack([(kind == number).nonzero()[0, 0] for number in range(int(kind.max()) + 1)]), kind


def decoder_of(model: Any) -> Any:
    """Return the layers below the output layer of a transformers or PEFT model; None where it has none of its own."""
    base = without_adapters(model)
    return base.get_decoder() if hasattr(base, "get_decoder") else None


def without_adapters(model: Any) -> Any:
    """Return the transformers model that `generate` runs, of a transformers or PEFT model."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def rows_of_cache(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Return keys and values of some rows of a cache, which is not changed."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    part.batch_select_indices(rows)
    return part


def is_plain(model: Any) -> bool:
    """Say whether all layers of a model are plain attention and its weights are complete in this process."""
    decoder = decoder_of(model)
    layer_types = getattr(getattr(decoder, "config", None), "layer_types", None) or ["full_attention"]
    return decoder is not None and set(layer_types) == {"full_attention"} and not is_sharded(model)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class _Rows(NamedTuple):
    """Rows that run behind keys and values.

    Args:
        ids: their tokens, (B, T).
        mask: of what they see: the columns of the keys, then their own, (B, S + T).
        positions: of their tokens, (B, T).
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor

    @property
    def own(self) -> torch.Tensor:
        """Mask of their own tokens, (B, T)."""
        return self.mask[:, -self.ids.shape[1] :]


def _behind(
    forward: Callable[..., Any],
    cache: DynamicCache,
    of_row: torch.Tensor,
    rows: _Rows,
    needed: torch.Tensor,
    *,
    kept: bool,
    **kwargs: Any,
) -> Any:
    """Run rows behind keys and values, on a CPU in tiles of rows of similar length.

    There equal rows of a tile, such as the prompt of several samples, run once, unless gradients are summed.

    Args:
        forward: of the decoder.
        cache: keys and values of S tokens; afterwards, where they are kept, those of all rows with their own tokens.
        of_row: row of the cache behind which each row runs, (B,).
        rows: the B rows.
        needed: true at the tokens whose states are asked for; those after the last of them are not run, (B, T).
        kept: whether the cache is needed afterwards.
        **kwargs: other arguments of `forward`.

    Returns:
        Output of the last tile, with the states of all rows, (B, T, H); 0 at columns that were not run.
    """
    width, past = rows.ids.shape[1], rows.mask.shape[1] - rows.ids.shape[1]
    states, caches = [], []
    tiles = _tiles(needed.bool())
    once = needed.device.type == "cpu" and not torch.is_grad_enabled()
    for chosen, columns in tiles:
        ids, positions = rows.ids[chosen, columns], rows.positions[chosen, columns]
        mask = torch.cat([rows.mask[chosen, :past], rows.own[chosen, columns]], dim=1)
        first, kind = _distinct(of_row[chosen, None], ids, mask, positions) if once else (chosen, chosen)
        equal = len(first) < len(chosen)
        run = first if equal else slice(None)
        part = rows_of_cache(cache, of_row[chosen[run]])
        found = forward(ids[run], mask[run], past_key_values=part, position_ids=positions[run], **kwargs)
        if equal:
            part.batch_select_indices(kind)
            found.last_hidden_state = found.last_hidden_state[kind]
        around = (0, 0, columns.start, width - columns.stop)
        states.append(pad(found.last_hidden_state, around))
        caches.append((part, around))
    if len(tiles) == 1 and not any(around):
        cache.layers = part.layers
        return found
    back = torch.cat([chosen for chosen, _ in tiles]).argsort()
    found.last_hidden_state = torch.cat(states)[back]
    for number, layer in enumerate(cache.layers if kept else ()):
        for name in ("keys", "values"):
            parts = [(getattr(part.layers[number], name), around) for part, around in caches]
            tiled = [torch.cat([own[:, :, :past], pad(own[:, :, past:], around)], dim=2) for own, around in parts]
            setattr(layer, name, torch.cat(tiled)[back])
    return found


def _tiles(needed: torch.Tensor) -> list[tuple[torch.Tensor, slice]]:
    """Cut a padded batch into tiles of rows and columns that hold all needed tokens, at the least cost on a CPU.

    Args:
        needed: bool, (B, T).

    Returns:
        Rows of each tile, in their order, and its columns, at least one; a single tile elsewhere.
    """
    count, width = needed.shape
    if needed.device.type != "cpu":
        return [(torch.arange(count, device=needed.device), slice(0, width))]
    some = needed.any(dim=1)
    begins = torch.where(some, needed.long().argmax(dim=1), width)
    ends = torch.where(some, width - needed.flip(1).long().argmax(dim=1), 0)
    order = (ends - begins).argsort(stable=True)
    spans = list(zip(begins[order].tolist(), ends[order].tolist(), strict=True))
    edges = [0, *(place for place in range(1, count) if spans[place] != spans[place - 1]), count]
    best: dict[int, tuple[int, list[tuple[int, int, slice]]]] = {0: (0, [])}  # cost and tiles of the rows before
    for end in edges[1:]:
        found = []
        for begin in edges[: edges.index(end)]:
            low = min(width - 1, *(first for first, _ in spans[begin:end]))
            columns = slice(low, max(low + 1, *(last for _, last in spans[begin:end])))
            cost, tiles = best[begin]
            cost += _PASS_TOKENS + (end - begin) * (columns.stop - columns.start)
            found.append((cost, [*tiles, (begin, end, columns)]))
        best[end] = min(found, key=lambda one: one[0])
    return [(order[begin:end].sort().values, columns) for begin, end, columns in best[count][1]]
