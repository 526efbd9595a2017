"""Attention on a CPU that reads keys and values where they lie, for models whose heads share them.

transformers' plain attention copies keys and values for every head that shares them: of a decoding step of the demo's
model, in which three heads share each, that was a fifth of the time. Here the heads that share a key are rows of one
product. Without gradients the results are the same up to rounding, and where it was measured (bfloat16, Zen 4) to the
bit; gradients would be summed in another order, so that training keeps the plain attention.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

SHARED_HEADS = "shared_heads"
"""Name of this attention among those of transformers."""


def share_heads(model: Any) -> None:
    """Let a model use this attention, if its own is the plain one that most architectures have in common.

    Args:
        model: of transformers, on a CPU, with eager attention.
    """
    own = getattr(sys.modules[type(model).__module__], eager_attention_forward.__name__, None)
    if own is not None and _same_code(own, eager_attention_forward):
        model.set_attn_implementation(SHARED_HEADS)


def _same_code(one: Any, other: Any) -> bool:
    """Say whether two functions do the same: transformers copies the plain attention into every architecture."""
    return all(
        getattr(one.__code__, name) == getattr(other.__code__, name) for name in ("co_code", "co_names", "co_consts")
    )


def shared_heads(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as transformers' `eager_attention_forward` does, whose arguments these are.

    Args:
        module: the attention layer.
        query: (B, N, T, D), for N heads.
        key: (B, G, S, D); each is shared by N / G heads that follow each other.
        value: (B, G, S, V); V is D in most models.
        attention_mask: added to the weights before the softmax, (B, 1, T, S); None for nothing.
        scaling: factor of the weights.
        dropout: share of the weights that is dropped in training.
        **kwargs: arguments that plain attention does not use.

    Returns:
        What is attended to, (B, T, N, V), and the weights, (B, N, T, S).
    """
    if torch.is_grad_enabled() or (dropout and module.training):
        return eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
    rows, heads, tokens, width = query.shape
    groups = key.shape[1]
    together = query.reshape(rows, groups, -1, width)  # (B, G, N T / G, D)
    weights = torch.matmul(together, key.transpose(2, 3)).view(rows, heads, tokens, -1) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = torch.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    found = torch.matmul(weights.view(rows, groups, -1, key.shape[2]), value).view(rows, heads, tokens, -1)
    return found.transpose(1, 2).contiguous(), weights


AttentionInterface.register(SHARED_HEADS, shared_heads)
AttentionMaskInterface.register(SHARED_HEADS, eager_mask)
