"""Two vectors per row from one layer of a policy: the state of the last prompt token and the completion's mean state.

Layer L is the output of the L-th decoder layer, `hidden_states[L]` in transformers' count, in which 0 is the input
embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drirl_core.models.partial_pass import until_layer
from drirl_core.models.sharding import is_sharded

if TYPE_CHECKING:
    import torch

    from drirl_core.models.loading import Policy


def read_layer(
    policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], layer: int
) -> torch.Tensor:
    """Summarise token rows by one layer; equal prompts are computed once.

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

    padding, device = policy.tokenizer.pad_token_id, policy.device
    places = {tokens: i for i, tokens in enumerate(dict.fromkeys(map(tuple, prompts)))}
    of_row = torch.tensor([places[tuple(tokens)] for tokens in prompts], device=device)
    cache = DynamicCache()
    with torch.no_grad() if is_sharded(policy.model) else torch.inference_mode():
        # What all prompts begin with, the system message of the template, is computed for one of them.
        start = _common_length(list(places))
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
        ids, own = padded(completions, padding, device)
        if not ids.shape[1]:
            return torch.stack([last, torch.zeros_like(last)], dim=1)
        cache.batch_select_indices(of_row)
        hidden = until_layer(
            policy.model,
            layer,
            input_ids=ids,
            attention_mask=torch.cat([present[of_row], own], dim=1),
            position_ids=lengths[of_row].unsqueeze(1) + torch.arange(ids.shape[1], device=device),
            past_key_values=cache,
        )
        return torch.stack([last, masked_mean(hidden, own.bool())], dim=1)


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
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
