"""Weights of four bits (QLoRA): how they are loaded, and how adapters are joined with the unquantized weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drirl_core.errors import ModelError
from drirl_core.models.packages import quantization_problems

if TYPE_CHECKING:
    import torch

BYTES_PER_WEIGHT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of NF4: four bits, one byte of scale for 64 weights, and one float32 for 256 of these scales."""


def quantized_loading(quantization: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments with which transformers loads weights in four bits; none without quantisation.

    Args:
        quantization: `models.quantization`.
        device: where the model computes.
        dtype: type in which it computes, and of the weights that stay unquantized: embeddings, norms and output layer.

    Raises:
        ModelError: bitsandbytes is missing or too old, or does not compute on this device.
    """
    if quantization == "none":
        return {}
    for problem in quantization_problems(quantization):
        raise ModelError(problem)
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    _try(device, dtype)
    return {"quantization_config": settings, "device_map": {"": device}}


def prepare(model: Any) -> None:
    """Keep bitsandbytes from packing the weights of a model for sampling on a CPU: the packed form cannot be trained.

    Args:
        model: loaded with `quantized_loading`.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def is_quantized(model: Any) -> bool:
    """Say whether a model of transformers or PEFT holds weights of four bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def joined(model: Any, unquantized: Any) -> Any:
    """Join the trained adapter of a quantised model with unquantised weights.

    Args:
        model: the PEFT model that was trained, with one adapter.
        unquantized: the same model with unquantized weights; it is changed.

    Returns:
        `unquantized` with the adapter added to its weights.
    """
    import copy

    import peft

    settings = copy.copy(model.peft_config["default"])
    settings.inference_mode = True
    adapted = peft.get_peft_model(unquantized, settings)
    weights = peft.get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    peft.set_peft_model_state_dict(adapted, {name: weight.detach().cpu() for name, weight in weights.items()})
    return adapted.merge_and_unload()


def _try(device: torch.device, dtype: torch.dtype) -> None:
    """Quantise a small matrix and multiply with it, so that what is missing is said before a model loads."""
    import torch

    try:
        from bitsandbytes import functional

        packed, state = functional.quantize_4bit(torch.ones(64, 64, dtype=dtype, device=device), quant_type="nf4")
        back = functional.dequantize_4bit(packed, state)
    except (RuntimeError, NotImplementedError, ImportError, AttributeError, OSError) as error:
        raise ModelError(
            f"models.quantization is '4bit', but bitsandbytes does not compute on {device.type} here ({error}); "
            "install a build for this device, choose another models.device, or write models.quantization: none"
        ) from error
    if not torch.allclose(back, torch.ones_like(back), atol=0.05):
        raise ModelError(
            f"models.quantization is '4bit', but bitsandbytes gives wrong numbers on {device.type} here; update "
            "it, or write models.quantization: none"
        )
