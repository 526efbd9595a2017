"""A part of a decoder's forward pass: up to a layer, or from a layer on with states that were computed before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from drirl_core.errors import ModelError
from drirl_core.models.sharding import is_sharded

if TYPE_CHECKING:
    import torch


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
def from_layer(decoder: Any, first: int, states: torch.Tensor) -> Iterator[None]:
    """Let the forward passes in the block begin at a layer; embeddings, masks and positions are computed as ever.

    Args:
        decoder: a decoder with a list of `layers` whose outputs are tensors.
        first: index of the layer, from 0; those below it are passed through.
        states: output of the layers below it for the same tokens, (B, T, H).
    """

    def enter(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((states, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": states})

    with contextlib.ExitStack() as blocks:
        for layer in decoder.layers[:first]:
            blocks.enter_context(mock.patch.object(layer, "forward", _passed_through))
        blocks.callback(decoder.layers[first].register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield


def _passed_through(hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
    return hidden_states
