"""The layers of a model without its weights: made on torch's meta device from config.json, in about a second."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from drirl_core.models.references import library_errors


def skeleton(folder: Path, reference: object) -> Any:
    """Return a causal language model whose parameters have shapes and no values.

    Args:
        folder: directory with config.json.
        reference: of the model, for messages.

    Raises:
        ModelError: config.json is damaged, or of another kind of model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with library_errors(str(reference)), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def linear_layers(model: Any) -> list[str]:
    """Return the complete names of the linear layers of a model, in its order.

    Args:
        model: a transformers model, or its skeleton.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def embeddings(model: Any) -> list[str]:
    """Return the complete names of the embeddings of a model, which adapters can adapt as well."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)]


def described_layers(names: list[str]) -> str:
    """Return the last parts of layer names with how many there are, such as `q_proj (30), lm_head (1)`."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
