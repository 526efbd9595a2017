"""The trained adapter as files beside the merged weights, so that it can be published and inspected by itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
from safetensors.torch import save_file

FOLDER = "adapter"
"""Folder inside a checkpoint with what PEFT loads, relative to the weights that training began with."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"


def adapter_state(model: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return the settings and weights of a trained adapter; None for full fine-tuning.

    PEFT's own `save_pretrained` would also write a card with the path of the weights that training began with.

    Args:
        model: the trainer's model, before its adapters are merged.
    """
    if not isinstance(model, peft.PeftModel):
        return None
    settings = copy.copy(model.peft_config[_NAME])
    settings.base_model_name_or_path, settings.revision, settings.inference_mode = None, None, True
    settings.target_modules = sorted(settings.target_modules)  # a set: its order would differ between processes
    weights = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    return settings, {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}


def write_adapter(folder: Path, settings: Any, weights: dict[str, Any]) -> None:
    """Write an adapter as PEFT reads it.

    Args:
        folder: of the checkpoint; the adapter gets its own folder in it.
        settings: of the adapter, a `peft.LoraConfig`.
        weights: by PEFT's names.
    """
    target = folder / FOLDER
    target.mkdir()
    settings.save_pretrained(str(target))
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
