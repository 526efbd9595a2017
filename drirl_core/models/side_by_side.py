"""LoRA adapters side by side: the layers of a mixed batch computed for all adapters at once.

PEFT's own mixed batches (`adapter_names`) go through the adapters one after the other in every layer, which on a GPU
costs as many small kernels as there are adapters. Here the adapters of a layer lie beside each other in two matrices,
and a row keeps what its own adapter contributes: with D all the down projections on top of each other, U all the up
projections beside each other and z the scale of a row's own adapter at its columns, 0 elsewhere, the layer gives

    W x + U ( z * D x )

in the two products of a single adapter, whatever the number of adapters is. The weights stay PEFT's: they become views
of these matrices and take no memory twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

BASE = "__base__"
"""PEFT's name for a row without an adapter."""


@dataclass(frozen=True)
class _Columns:
    """The adapters of one layer.

    Args:
        down: D, (K R, in).
        up: U, (out, K R).
    """

    down: torch.Tensor
    up: torch.Tensor


class SideBySide:
    """The adapters of a PEFT model, side by side in every layer.

    Args:
        model: the PEFT model; its adapters' weights are moved into the common matrices, with the values they have.
    """

    def __init__(self, model: Any) -> None:
        configs = model.peft_config
        self._place = {name: k for k, name in enumerate(configs)}
        self._rank = max(config.r for config in configs.values())
        self._scale = {name: config.lora_alpha / config.r for name, config in configs.items()}
        self._layers = {layer: self._columns(layer) for layer in lora_layers(model)}

    def _columns(self, layer: Any) -> _Columns:
        """Move the weights of a layer's adapters into common matrices; 0 for an adapter that it does not have."""
        weight = next(iter(layer.lora_A.values())).weight
        size = len(self._place) * self._rank
        columns = _Columns(weight.new_zeros(size, layer.in_features), weight.new_zeros(layer.out_features, size))
        with torch.no_grad():
            for name in layer.lora_A:
                down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
                start = self._place[name] * self._rank
                for own, common in (
                    (down, columns.down[start : start + len(down)]),
                    (up, columns.up[:, start : start + len(down)]),
                ):
                    common.copy_(own)
                    own.data = common
        return columns

    @contextlib.contextmanager
    def routing(self, adapters: Sequence[str]) -> Iterator[None]:
        """Let every layer add what the adapter of each row contributes.

        Args:
            adapters: name of each of b rows, whose layers are computed without adapters otherwise.
        """
        own = torch.zeros(len(adapters), 1, len(self._place) * self._rank)
        for i, name in enumerate(adapters):
            start = self._place[name] * self._rank
            own[i, 0, start : start + self._rank] = self._scale[name]
        by_device: dict[torch.device, torch.Tensor] = {}

        def add(layer: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            columns = self._layers[layer]
            device = columns.down.device
            if device not in by_device:
                by_device[device] = own.to(device)
            low = (
                torch.nn.functional.linear(arguments[0].to(columns.down.dtype), columns.down) * by_device[device]
            )  # (b, T, K R)
            return output + torch.nn.functional.linear(low, columns.up).to(output.dtype)

        with contextlib.ExitStack() as blocks:
            for layer in self._layers:
                blocks.callback(layer.register_forward_hook(add).remove)
            yield


def lora_layers(model: Any) -> list[Any]:
    """Return the adapted layers of a PEFT model."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def can_lie_side_by_side(model: Any) -> bool:
    """Return whether all adapted layers of a PEFT model are linear, without variants such as DoRA."""
    return all(layer.lora_A and not layer.lora_embedding_A and not layer.lora_variant for layer in lora_layers(model))
