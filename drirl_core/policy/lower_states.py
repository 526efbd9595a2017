"""What lies below all adapters, computed once: it is the same in every pass over the same tokens.

With adapters on upper layers alone, the lower ones compute the same in the reference and in the policy that is trained.
For the KL, TRL runs the reference over the very tokens that the update runs over next. So what enters the first adapted
layer is kept from that pass, and the update begins there. Supervised fine-tuning, to which the same prompts come
several times, has it computed for all rows before the first step. The results are equal up to rounding.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from unittest import mock

import peft
import torch
from transformers import DynamicCache

from drirl_core.models.layer_states import common_length, of_like_length, padded
from drirl_core.models.partial_pass import from_layer, output_types, until_layer, with_layer
from drirl_core.models.shared_prompts import (
    asks_of_each_layer,
    decoder_of,
    is_plain,
    prompts_once,
    rows_of_cache,
    without_adapters,
)
from drirl_core.policy.shared_states import can_be_read
from drirl_core.reporting import Reporter

_SAME = 1e-2
"""Largest difference, relative to the largest value, of a pass that begins later and a complete one, in bfloat16."""
_MOST_BYTES = 4_000_000_000
"""Memory that the states of all rows of a training may take."""
_SPARED_TOKENS, _ROWS = 128, 256
"""Padded tokens for which `learn` makes another pass, and rows of one pass at most."""
_PROBE = 4
"""Tokens with which both rows of the probe begin."""


def lower_states(model: Any, adapters: peft.LoraConfig | None) -> LowerStates | None:
    """Return what keeps the states below adapters; None where an update has to compute them itself.

    For `policy.share_lower_layers` and `sft.share_lower_layers`.

    Args:
        model: the start, without adapters yet.
        adapters: what it is to be adapted with; None where all weights are trained.
    """
    first = min(adapters.layers_to_transform or [0]) if adapters else 0
    on_cpu = next(model.parameters()).device.type == "cpu"  # elsewhere memory is scarcer than time
    if not on_cpu or not first or not is_plain(model) or not can_be_read(model):
        return None
    return LowerStates(first) if _can_begin_later(model, first) else None


def learned_below(
    model: Any, adapters: peft.LoraConfig | None, rows: Sequence[Sequence[int]], reporter: Reporter
) -> LowerStates | None:
    """Return the states below adapters for all rows of a training, computed here; None, said why, where they are not.

    For `sft.share_lower_layers`.

    Args:
        model: the start, without adapters yet.
        adapters: what it is to be adapted with.
        rows: tokens of every row and prompt; empty where the training has others too.
        reporter: gets a line.
    """
    found = lower_states(model, adapters) if rows else None
    if found is None:
        reporter.log(
            "sft.share_lower_layers is on, but every step computes all layers: lower ones are shared on a CPU, with "
            "sft.decision and sft.lora.first_layer above 0, sft.contrast 0, and a model whose layers can be entered by "
            "their states alone"
        )
        return None
    size = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()
    most = sum(map(len, _longest(rows))) * size
    if most > _MOST_BYTES:
        reporter.log(
            "sft.share_lower_layers is on, but every step computes all layers: to keep the states below the adapters "
            f"for all rows could take {most / 1e9:.1f} GB, and {_MOST_BYTES / 1e9:.0f} GB is the most that is kept"
        )
        return None
    started = time.monotonic()
    kept = found.learn(model, rows)
    reporter.log(
        f"SFT: what lies below the adapters is computed once, for {kept} tokens in {time.monotonic() - started:.0f} s "
        f"({kept * size / 1e6:.0f} MB); every step begins above it"
    )
    return found


class LowerStates:
    """Keep what enters a layer in passes without gradients; passes with gradients over the same tokens begin there.

    States are kept by the tokens that lead to them, so that rows may come in another order, in other batches and with
    other padding.

    Args:
        first: index of the layer, from 0.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self.begin()

    def begin(self) -> None:
        """Forget what was kept: the tokens of a step do not come again."""
        self._places: dict[tuple[int, int], int] = {}  # of a token behind a place; 0 is the beginning, and padding
        self._tokens, self._states = torch.zeros(1, dtype=torch.long), torch.empty(0)

    def learn(self, model: Any, rows: Sequence[Sequence[int]]) -> int:
        """Compute what enters the layer in complete rows, so that passes over them begin there from now on.

        Args:
            model: the policy, with adapters or without; on a CPU.
            rows: tokens of rows, none of them empty.

        Returns:
            Tokens whose states are kept.
        """
        base, longest = without_adapters(model), _longest(rows)
        start, cache, kept = common_length(longest), DynamicCache(), []
        with torch.no_grad():
            if start:  # the system message of the template is computed for one of them
                common = torch.tensor([longest[0][:start]])
                heads = until_layer(base, self._first, input_ids=common, past_key_values=cache)
            for part in of_like_length([len(tokens) - start for tokens in longest], _SPARED_TOKENS):
                for chosen in (part[begin : begin + _ROWS] for begin in range(0, len(part), _ROWS)):
                    ids, own = padded([longest[place] for place in chosen], 0, "cpu")
                    behind = rows_of_cache(cache, torch.zeros(len(chosen), dtype=torch.long))
                    states = until_layer(
                        base, self._first, input_ids=ids[:, start:], attention_mask=own, past_key_values=behind
                    )
                    states = torch.cat([heads.expand(len(ids), -1, -1), states], dim=1) if start else states
                    kept.append(self._noted(ids, own, states))
        self._extend(kept)
        return len(self._places)

    @contextlib.contextmanager
    def shared(self, model: Any) -> Iterator[None]:
        """Keep states in the passes of the block without gradients, and use them in those with gradients.

        Args:
            model: the policy under adapters, switched on or off.
        """
        decoder = decoder_of(model)
        forward = decoder.forward
        with with_layer(decoder, self._first) if not torch.is_grad_enabled() else contextlib.nullcontext(None) as run:

            def passing(input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
                cache = kwargs.get("past_key_values")
                begun = cache is not None and cache.get_seq_length() > 0
                if input_ids is None or attention_mask is None or begun or asks_of_each_layer(kwargs):
                    return forward(input_ids, attention_mask, **kwargs)
                if run is not None:
                    found, states = run(input_ids, attention_mask, **kwargs)
                    self._keep(input_ids, attention_mask, states)
                    return found
                places = self._places_of(input_ids, attention_mask)
                if not places[attention_mask.bool()].all():  # a token whose states were not kept
                    return forward(input_ids, attention_mask, **kwargs)
                with self._beginning_later(without_adapters(model)):
                    return forward(places, attention_mask, **kwargs)

            with mock.patch.object(decoder, "forward", passing):
                yield

    def _keep(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> None:
        """Keep the states, (B, T, H), of tokens, (B, T), that are not known yet."""
        self._extend([self._noted(ids, mask, states)])

    def _noted(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give tokens that are not known yet their places; return these tokens, (N,), and their states, (N, H)."""
        known = len(self._places)
        places = self._places_of(ids, mask, new=True).flatten().tolist()
        first = {place: position for position, place in reversed(list(enumerate(places)))}
        new = [first[place] for place in range(known + 1, len(self._places) + 1)]
        return ids.flatten()[new], states.flatten(0, 1)[new]

    def _extend(self, kept: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Keep tokens and their states, in the order of their places."""
        if not self._states.numel():
            self._states = kept[0][1].new_zeros(1, kept[0][1].shape[-1])
        self._tokens = torch.cat([self._tokens, *(tokens for tokens, _ in kept)])
        self._states = torch.cat([self._states, *(states for _, states in kept)])

    def _places_of(self, ids: torch.Tensor, mask: torch.Tensor, *, new: bool = False) -> torch.Tensor:
        """Return the place of each token, 0 for padding and for a token that was not kept, (B, T).

        Args:
            ids: tokens, (B, T).
            mask: true at those that are no padding, (B, T).
            new: give tokens that are not known yet a place.
        """
        found = torch.zeros_like(ids)
        for row, (line, present) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
            place = 0
            for column, token in enumerate(line):
                if not present[column]:
                    continue
                if new:
                    self._places.setdefault((place, token), len(self._places) + 1)
                place = self._places.get((place, token), 0)
                if not place:
                    break
                found[row, column] = place
        return found

    @contextlib.contextmanager
    def _beginning_later(self, base: Any) -> Iterator[None]:
        """Let passes over places, in place of tokens, begin at the layer with what is kept there.

        Equal beginnings of rows have equal places, so that wrappers that look for them find them.
        """
        entering: list[torch.Tensor] = []

        def embedded(module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            entering[:] = [self._states[arguments[0]]]
            return (self._tokens[arguments[0]], *arguments[1:])

        with contextlib.ExitStack() as blocks:
            blocks.callback(base.get_input_embeddings().register_forward_pre_hook(embedded).remove)
            blocks.enter_context(from_layer(base.get_decoder(), self._first, lambda: entering[0]))
            yield


def _longest(rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return each row once, in ascending order, without those with which another one begins: they are in it."""
    ordered = sorted(set(map(tuple, rows)))  # a row comes just before those that begin with it
    return [row for row, after in pairwise([*ordered, ()]) if after[: len(row)] != row]


def _can_begin_later(model: Any, first: int) -> bool:
    """Try whether a pass over two short rows may begin at a layer; some models need more than its states there."""
    most = min(int(model.config.get_text_config().vocab_size), 64)
    ids = torch.stack([torch.arange(8) % most, (torch.arange(8) * 5 + 3) % most])
    ids[1, :_PROBE] = ids[0, :_PROBE]  # so that the rest of both runs behind one beginning
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kept, decoder = LowerStates(first), decoder_of(model)
    try:
        with torch.no_grad(), prompts_once(model, _PROBE), kept.shared(model), output_types(decoder) as kinds:
            complete = decoder(**given).last_hidden_state.float()
        if not all(issubclass(kind, torch.Tensor) for kind in kinds):
            return False
        with torch.enable_grad(), prompts_once(model, _PROBE), kept.shared(model):
            later = decoder(**given).last_hidden_state.detach().float()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False  # its code is built in another way: the update computes it all, as without this
    return bool((complete - later).abs().max() <= _SAME * complete.abs().max())
