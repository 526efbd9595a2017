"""Adapters, and whether the layers that they name are there.

PEFT trains the layers that it finds and is silent about names that match nothing, so that a policy with other layer
names would train with a part of its adapters, or with none.
"""

from __future__ import annotations

import math
from typing import Any

import peft
from peft.tuners.tuners_utils import check_target_module_exists

from drirl_core.config import LoraConfig
from drirl_core.errors import ConfigError
from drirl_core.models.skeleton import described_layers, embeddings, linear_layers


def peft_config(lora: LoraConfig, depth: int) -> peft.LoraConfig | None:
    """Return the adapter settings for PEFT, or None for full fine-tuning.

    Args:
        lora: rank, names of the adapted layers, and the share of the depth where they start.
        depth: layers of the model.
    """
    if lora.rank == 0:
        return None
    first = math.ceil(lora.first_layer * depth)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.targets),
        layers_to_transform=list(range(first, depth)) if first else None,
        task_type="CAUSAL_LM",
    )


def adapters_of(lora: LoraConfig, model: Any, section: str, reference: object) -> peft.LoraConfig | None:
    """Return the adapter settings for a model, after a check that every layer they name is there.

    Args:
        lora: rank, names of the adapted layers, and the share of the depth where they start.
        model: the model, or its skeleton.
        section: dotted name of the settings, for messages.
        reference: of the model, for messages.

    Returns:
        Settings for PEFT, or None for full fine-tuning.

    Raises:
        ConfigError: a target names no linear layer, or none above `first_layer`.
    """
    depth = int(model.config.get_text_config().num_hidden_layers)
    config = peft_config(lora, depth)
    if config is None:
        return None
    linear = linear_layers(model)
    layers = [*linear, *embeddings(model)]
    known = f"the linear layers of {reference} are: {described_layers(linear)}"
    unknown = [target for target in lora.targets if not any(_is(name, target) for name in layers)]
    if unknown:
        rest = [target for target in lora.targets if target not in unknown]
        found = f"only {', '.join(rest)} would be adapted" if rest else "nothing would be adapted"
        raise ConfigError(
            f"{section}.targets: {', '.join(unknown)} {'name' if len(unknown) > 1 else 'names'} no layer, so {found}; "
            f"{known}. Set {section}.targets to names among them"
        )
    adapted = [name for name in layers if check_target_module_exists(config, name)]
    lost = [target for target in lora.targets if not any(_is(name, target) for name in adapted)]
    if lost:
        first, names = math.ceil(lora.first_layer * depth), ", ".join(lost)
        example = next(name for name in layers if _is(name, lost[0]))
        raise ConfigError(
            f"{section}.first_layer is {lora.first_layer}, which adapts the layers {first} to {depth - 1} of {depth}, "
            f"but {names} {'are' if len(lost) > 1 else 'is'} in none of them, as far as a name such as {example} "
            f"tells; set {section}.first_layer to 0, or leave {names} out of {section}.targets; {known}"
        )
    return config


def _is(name: str, target: str) -> bool:
    """Return whether a target names a layer, by PEFT's rule for a list of targets."""
    return name == target or name.endswith(f".{target}")
