"""Hidden states that the reference computes anyway, for the rewards that read them.

Rewards of the backbone `hidden_state` read layer L of the frozen initial policy over prompt and completion. For the KL,
TRL runs the reference, the start without adapters, over the same tokens, and does so before it asks for the rewards.
Where the start's layers up to L are those of the initial policy, the reference's states at L are the ones that the
rewards need. They are read in its pass; texts of its prompts that are not in it, the demonstrations and answers whose
own tokens are not those that were sampled, then run through the same layers over the prompts' keys and values. The
results are equal up to rounding.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import DynamicCache

from drirl_core.config import PolicyConfig
from drirl_core.models.adapted import shares_rows
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.layer_states import masked_mean, padded
from drirl_core.models.loading import Policy
from drirl_core.models.partial_pass import until_layer, with_layer
from drirl_core.models.sampling import reader_of_completions
from drirl_core.models.token_rows import TokenRow, tokens_of
from drirl_core.policy.scoring import RolloutScorer
from drirl_core.text.chain_of_draft import cut_draft


def shared_states(policy: Policy, scorer: RolloutScorer, settings: PolicyConfig) -> SharedStates | None:
    """Return what reads the reference's states for the rewards; None where the rewards have to compute their own.

    Args:
        policy: the start, without adapters yet.
        scorer: its rewards may read one layer of the frozen policy.
        settings: they must have a KL to a start that does not change, and adapters that can be switched off.

    Raises:
        ModelError: the initial policy cannot be loaded.
    """
    if scorer.reads is None or not settings.kl or settings.renew_reference or not settings.lora.rank:
        return None
    source, layer = scorer.reads
    rounded_alike = policy.device.type == "cpu" or policy.model.dtype == torch.bfloat16  # a GPU trains in bfloat16
    if policy.unquantized is not None or not rounded_alike:
        return None
    if not equal_up_to(layer, policy.model, source.policy().model):
        return None
    return SharedStates(source, layer, policy.tokenizer, scorer)


def equal_up_to(layer: int, model: Any, other: Any) -> bool:
    """Return whether two models compute the same up to a layer in training mode, by their weights bit for bit.

    Args:
        layer: number of the layer, from 1.
        model: a causal language model without adapters.
        other: the same.
    """
    if not all(map(can_be_read, (model, other))):
        return False
    ours, theirs = _below(model, layer), _below(other, layer)
    return ours.keys() == theirs.keys() and all(
        weight.dtype == theirs[name].dtype and torch.equal(weight, theirs[name]) for name, weight in ours.items()
    )


def can_be_read(model: Any) -> bool:
    """Tell whether layers and final norm are known, positions are relative, and nothing is dropped at random."""
    decoder = model.get_decoder()
    known = isinstance(getattr(decoder, "layers", None), nn.ModuleList) and isinstance(
        getattr(decoder, "norm", None), nn.Module
    )
    at_random = any(
        isinstance(value, int | float) and value > 0 and ("dropout" in name or "jitter" in name)
        for name, value in model.config.get_text_config().to_dict().items()
    ) or any(module.p for module in decoder.modules() if isinstance(module, nn.Dropout))
    return known and shares_rows(model.config) and not at_random


def _below(model: Any, layer: int) -> dict[str, torch.Tensor]:
    """Return all that decides the output of a layer: weights and buffers but those of the layers above it."""
    decoder = model.get_decoder()
    above = ("norm.", *(f"layers.{number}." for number in range(layer, len(decoder.layers))))
    tensors = (*decoder.named_parameters(), *decoder.named_buffers())
    return {name: tensor for name, tensor in tensors if not name.startswith(above)}


class SharedStates:
    """Read a layer of the reference in its own pass, and offer what was read to the rewards.

    Args:
        source: hidden states that the rewards read; the rows are offered to it by their tokens.
        layer: number of the layer, from 1.
        tokenizer: of the policy; special tokens at the end of a completion are no part of its text.
        scorer: names the demonstrations that it will reward; None for none.
    """

    def __init__(self, source: HiddenStates, layer: int, tokenizer: Any, scorer: RolloutScorer | None = None) -> None:
        self._source, self._layer, self._scorer = source, layer, scorer
        self._tokenizer, self._special = tokenizer, set(tokenizer.all_special_ids)
        plain = functools.partial(tokenizer.decode, skip_special_tokens=True)
        self._text = reader_of_completions(tokenizer) or plain
        self._rows: dict[TokenRow, np.ndarray] = {}
        self._demonstrations: list[TokenRow] = []
        self._seconds = 0.0

    def begin(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Forget the rows of the previous step, and look up which demonstrations the next one has to read.

        Args:
            inputs: rows of the training data, as TRL passes them for a generation.
        """
        self._rows, self._demonstrations = {}, []
        self._source.offer(self._layer, {})
        if self._scorer is not None:
            self._demonstrations = self._source.lacking(*self._scorer.unrewarded(inputs), self._layer)

    def taken_seconds(self) -> float:
        """Return the seconds spent on texts beside the pass since this was last asked: no cost of the KL."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    @contextlib.contextmanager
    def read(self, model: Any, width: int, *, keep_prompts: bool) -> Iterator[None]:
        """Read the layer in every pass that is made in the block, if the model is the reference in it.

        Args:
            model: the policy under adapters, which are switched off where it is the reference.
            width: tokens of the padded prompts, which come first in every row.
            keep_prompts: whether to keep the keys and values of a pass for texts that are not in it.
        """
        if not _is_reference(model):
            yield
            return
        base = model.get_base_model()
        decoder = base.get_decoder()
        forward = decoder.forward
        with with_layer(decoder, self._layer) as run:

            def reading(input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
                cache = kwargs.pop("past_key_values", None)
                if cache is not None and cache.get_seq_length() > 0:  # texts beside the pass, from below
                    return forward(input_ids, attention_mask, past_key_values=cache, **kwargs)
                if keep_prompts:
                    cache, kwargs["use_cache"] = DynamicCache(config=decoder.config), True
                found, states = run(input_ids, attention_mask, past_key_values=cache, **kwargs)
                rows = self._take(input_ids, attention_mask, states, width)
                if keep_prompts:
                    self._take_others(base, cache, rows, attention_mask[:, :width], states[:, width - 1])
                return found

            with mock.patch.object(decoder, "forward", reading):
                yield

    def _take(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor, width: int) -> list[TokenRow]:
        """Offer the rows of a pass: tokens and their mask, (B, T), and the layer's states, (B, T, H)."""
        prompts = _tokens(ids[:, :width], mask[:, :width])
        completions = [self._without_end(tokens) for tokens in _tokens(ids[:, width:], mask[:, width:])]
        lengths = torch.tensor(list(map(len, completions)), device=ids.device).unsqueeze(1)
        own = torch.arange(ids.shape[1] - width, device=ids.device) < lengths  # (B, C)
        rows = list(map(TokenRow, prompts, completions))
        self._offer(rows, states[:, width - 1], states[:, width:], own)
        return rows

    def _take_others(
        self, base: Any, cache: DynamicCache, passed: Sequence[TokenRow], mask: torch.Tensor, ends: torch.Tensor
    ) -> None:
        """Run texts of the prompts of a pass, which are not in it, through the lower layers behind these prompts.

        Args:
            base: the reference.
            cache: keys and values of the pass, of which only those of the prompts are kept.
            passed: the rows of the pass.
            mask: true at the tokens of their prompts, which are padded on the left, (B, P).
            ends: states of their prompts' last tokens, (B, H).
        """
        started = time.monotonic()
        places = {row.prompt: place for place, row in enumerate(passed)}
        wanted = dict.fromkeys((*self._demonstrations, *map(self._as_read, passed)))
        rows = [row for row in wanted if row.prompt in places and row not in self._rows]
        # Where each prompt occurs once, it was not computed separately from its completion.
        if any(row.completion for row in rows) and len(places) < len(passed):
            of_row = torch.tensor([places[row.prompt] for row in rows], device=mask.device)
            cache.crop(mask.shape[1] - cache.get_seq_length())
            cache.batch_select_indices(of_row)
            ids, own = padded([row.completion for row in rows], 0, mask.device)
            seen = torch.cat([mask[of_row], own.to(mask)], dim=1)
            at = {
                "attention_mask": seen,
                "position_ids": (seen.long().cumsum(dim=1) - 1)[:, mask.shape[1] :].clamp(min=0),
            }
            states = until_layer(base, self._layer, input_ids=ids, past_key_values=cache, **at)
            self._offer(rows, ends[of_row], states, own.bool())
        self._seconds += time.monotonic() - started

    def _as_read(self, row: TokenRow) -> TokenRow:
        """Return a sampled row as the rewards read it: the text of its answer, in the text's own tokens."""
        return TokenRow(row.prompt, tuple(tokens_of(self._tokenizer, cut_draft(self._text(row.completion)))))

    def _offer(self, rows: Sequence[TokenRow], ends: torch.Tensor, states: torch.Tensor, own: torch.Tensor) -> None:
        """Offer rows, given their last prompt states, (B, H), and the completions' states and mask, (B, C, ...)."""
        values = torch.stack([ends.float(), masked_mean(states, own)], dim=1).cpu().numpy()
        self._rows.update(zip(rows, values, strict=True))
        self._source.offer(self._layer, self._rows)

    def _without_end(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        end = len(tokens)
        while end and tokens[end - 1] in self._special:
            end -= 1
        return tokens[:end]


def _is_reference(model: Any) -> bool:
    """Return whether all adapters of a model are switched off, as TRL does it for the reference."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return isinstance(model, peft.PeftModel) and all(layer.disable_adapters for layer in layers)


def _tokens(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the tokens of each row at which the mask is true; both (B, T)."""
    return [
        tuple(token for token, present in zip(*row, strict=True) if present)
        for row in zip(ids.tolist(), mask.tolist(), strict=True)
    ]
