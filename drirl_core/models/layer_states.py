"""Two vectors per row from one layer of a policy: the state of the last prompt token and the completion's mean state.

Layer L is the output of the L-th decoder layer, `hidden_states[L]` in transformers' count, in which 0 is the input
embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from drirl_core.models.partial_pass import until_layer
from drirl_core.models.sharding import without_gradients

if TYPE_CHECKING:
    import torch

    from drirl_core.models.loading import Policy

_SPARED_TOKENS = 128
"""Padded tokens for which a CPU makes another pass; on a GPU a pass costs more than all padding of a batch."""


def read_layer(
    policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], layer: int
) -> torch.Tensor:
    """Summarise token rows by one layer; equal prompts are computed once.

    On a CPU completions of different lengths run in passes of their own behind the same prompts: of one pass for all of
    them up to two thirds would be padding.

    Args:
        policy: the frozen policy.
        prompts: tokens of B rendered prompts, none of them empty.
        completions: tokens of B completions.
        layer: number of the layer, from 1.

    Returns:
        float32, (B, 2, H), as `HiddenStates.encode`.
    """
    import torch
    from transformers import DynamicCache

    from drirl_core.models.shared_prompts import rows_of_cache

    padding, device = policy.tokenizer.pad_token_id, policy.device
    places = {tokens: i for i, tokens in enumerate(dict.fromkeys(map(tuple, prompts)))}
    of_row = torch.tensor([places[tuple(tokens)] for tokens in prompts], device=device)
    cache = DynamicCache()
    with without_gradients(policy.model):
        # What all prompts begin with, the system message of the template, is computed for one of them.
        start = common_length(list(places))
        if start > 0:
            common = torch.tensor([next(iter(places))[:start]], device=device)
            until_layer(policy.model, layer, input_ids=common, past_key_values=cache)
            cache.batch_select_indices(torch.zeros(len(places), dtype=torch.long, device=device))
        ids, own = padded([tokens[start:] for tokens in places], padding, device)
        present = torch.cat([own.new_ones(len(places), start), own], dim=1)
        hidden = until_layer(policy.model, layer, input_ids=ids, attention_mask=present, past_key_values=cache)
        lengths = present.sum(dim=1)
        ends = lengths - start - 1
        last = hidden[torch.arange(len(places), device=device), ends].float()[of_row]  # (B, H)
        found = torch.stack([last, torch.zeros_like(last)], dim=1)  # (B, 2, H)
        spared = _SPARED_TOKENS if device.type == "cpu" else None
        for part in of_like_length(list(map(len, completions)), spared):
            rows = torch.tensor(part, device=device)
            ids, own = padded([completions[row] for row in part], padding, device)
            hidden = until_layer(
                policy.model,
                layer,
                input_ids=ids,
                attention_mask=torch.cat([present[of_row[rows]], own], dim=1),
                position_ids=lengths[of_row[rows]].unsqueeze(1) + torch.arange(ids.shape[1], device=device),
                past_key_values=rows_of_cache(cache, of_row[rows]),
            )
            found[rows, 1] = masked_mean(hidden, own.bool())
        return found


def of_like_length(lengths: Sequence[int], spared: int | None) -> Iterator[list[int]]:
    """Divide rows into parts that need little padding.

    Args:
        lengths: tokens of each row; rows without any are in no part.
        spared: most padded tokens of a part; None for one part.

    Yields:
        Places of the rows of a part, by length.
    """
    part: list[int] = []
    padding = 0
    for place in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        padding += len(part) * (lengths[place] - lengths[part[-1]]) if part else 0
        if spared is not None and padding > spared:
            yield part
            part, padding = [], 0
        part.append(place)
    if part:
        yield part


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Count the tokens with which all prompts begin, without the last token of the shortest; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the marked positions in float32, (B, H); 0 where none is marked.

    Args:
        hidden: (B, T, H).
        mask: bool, (B, T).
    """
    total = hidden.float().masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def padded(rows: Sequence[Sequence[int]], padding: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token rows on the right.

    Args:
        rows: tokens of B rows.
        padding: the token to pad with.
        device: where the tensors go.

    Returns:
        Tokens and the mask of the real ones, int64, (B, T).
    """
    import torch

    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), padding, dtype=torch.long)
    present = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        present[i, : len(row)] = 1
    return ids.to(device), present.to(device)
