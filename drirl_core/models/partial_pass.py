"""A part of a decoder's forward pass: up to a layer, or from a layer on with stored states.

It also gives a layer's states beside those of the complete pass, even when a wrapper runs that pass in parts.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from drirl_core.errors import ModelError
from drirl_core.models.sharding import is_sharded

if TYPE_CHECKING:
    import torch

    Pass = Callable[..., tuple[Any, torch.Tensor]]


class _Reached(Exception):
    """No error: it leaves a forward pass at a layer, and carries that layer's output."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def until_layer(model: Any, layer: int, **inputs: Any) -> torch.Tensor:
    """Run a decoder up to a layer and return that layer's output, (B, T, H); all of it where its list is not known."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if layers is not None and is_sharded(model):
        return _from_the_root(model, layer, inputs)
    if layers is None and callable(model):
        return model(**inputs, use_cache=True, output_hidden_states=True, logits_to_keep=1).hidden_states[layer]
    if layers is None:
        raise ModelError(
            f"{type(decoder).__name__} has no list of `layers`, so that its hidden states cannot be read; "
            "set rewards.backbone to embedding"
        )

    def leave(module: Any, arguments: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    hook = layers[layer - 1].register_forward_hook(leave)
    try:
        decoder(**inputs, use_cache=True)
    except _Reached as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise ModelError(f"{type(decoder).__name__} did not call its layer {layer}; set rewards.backbone to embedding")


def _from_the_root(model: Any, layer: int, inputs: dict[str, Any]) -> torch.Tensor:
    """Run a model without the layers above one: sharded weights are gathered for a pass of the complete model alone."""
    decoder, kept = model.get_decoder(), []

    def keep(module: Any, arguments: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    hook = decoder.layers[layer - 1].register_forward_hook(keep)
    try:
        with mock.patch.object(decoder, "layers", decoder.layers[:layer]):
            model(**inputs, use_cache=True, logits_to_keep=1)
    finally:
        hook.remove()
    return kept[0]


@contextlib.contextmanager
def with_layer(decoder: Any, layer: int) -> Iterator[Pass]:
    """Yield a function that runs the decoder and returns its output and that of a layer for the same tokens.

    The `forward` that the decoder has at entry is used, wrappers included.

    Wrappers that run a pass in parts, and put the parts' last states in order, do so with the layer's states too.

    Args:
        decoder: a decoder with a list of `layers` and a `norm` behind them.
        layer: number of the layer, from 1; its states are (B, T, H) as the last ones are.
    """
    import torch

    forward, passed, width = decoder.forward, [], 0

    def keep(module: Any, arguments: Any, output: Any) -> None:
        nonlocal width
        passed[:] = [output[0] if isinstance(output, tuple) else output]
        width = passed[0].shape[-1]

    def carry(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        """Let the layer's states lie behind the last ones: whoever reorders those in parts reorders both."""
        if not passed:  # a decoder that normalises before its layers too
            return output
        return torch.cat([output, passed.pop().to(output.dtype)], dim=-1)

    def run(*arguments: Any, **named: Any) -> tuple[Any, torch.Tensor]:
        found = forward(*arguments, **named)
        last, states, others = found.last_hidden_state.tensor_split((width, 2 * width), dim=-1)
        found.last_hidden_state = torch.cat([last, others], dim=-1)  # others: of blocks within this one
        return found, states

    with contextlib.ExitStack() as blocks:
        blocks.callback(decoder.layers[layer - 1].register_forward_hook(keep).remove)
        blocks.callback(decoder.norm.register_forward_hook(carry).remove)
        yield run


@contextlib.contextmanager
def output_types(decoder: Any) -> Iterator[set[type]]:
    """Collect the types of what the first layer returns in the block; `from_layer` is for those that return tensors.

    Args:
        decoder: a decoder with a list of `layers`.
    """
    found: set[type] = set()
    hook = decoder.layers[0].register_forward_hook(lambda module, arguments, output: found.add(type(output)))
    try:
        yield found
    finally:
        hook.remove()


@contextlib.contextmanager
def from_layer(decoder: Any, first: int, states: torch.Tensor | Callable[[], torch.Tensor]) -> Iterator[None]:
    """Let the forward passes in the block begin at a layer; embeddings, masks and positions are computed as usual.

    Args:
        decoder: a decoder with a list of `layers` whose outputs are tensors.
        first: index of the layer, from 0; those below it are passed through.
        states: output of the layers below it for the same tokens, (B, T, H), or what returns it in each pass.
    """

    def enter(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        entering = states() if callable(states) else states
        return ((entering, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": entering})

    with contextlib.ExitStack() as blocks:
        for number, layer in enumerate(decoder.layers[:first]):
            blocks.enter_context(mock.patch.object(layer, "forward", functools.partial(_passed_through, number)))
        blocks.callback(decoder.layers[first].register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield


def _passed_through(
    number: int, hidden_states: torch.Tensor, *arguments: Any, past_key_values: Any = None, **named: Any
) -> torch.Tensor:
    if past_key_values is not None:  # masks and positions are made from how many tokens the first layer has seen
        nothing = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
        past_key_values.update(nothing, nothing, number)
    return hidden_states
