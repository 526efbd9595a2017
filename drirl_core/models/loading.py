"""Load models: weights, tokenizer, device and type; the only module that loads weights for use."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.digests import model_digest
from drirl_core.models.references import library_errors, resolve

if TYPE_CHECKING:
    import torch

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""CPU flags with which bfloat16 is faster than float32 (Zen 4, second flag: 2.5 times in sampling, 2.7 in training)."""


@dataclass(frozen=True)
class Policy:
    """A causal language model ready for use.

    Args:
        model: transformers model in evaluation mode.
        tokenizer: its tokenizer, padding on the left.
        device: where the model is.
        key: digest of the weights; rows made by this policy are cached under it.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    key: str

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)


def device_of(models: ModelsConfig) -> torch.device:
    """Return the device that the settings ask for.

    Raises:
        ModelError: `cuda` is asked for and there is none.
    """
    import torch

    if models.threads:
        torch.set_num_threads(models.threads)
    available = torch.cuda.is_available()
    if models.device == "cuda" and not available:
        raise ModelError(
            "models.device is 'cuda' but torch sees no GPU; set it to auto or cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if available and models.device != "cpu" else "cpu")


def dtype_of(models: ModelsConfig) -> torch.dtype:
    """Return the type of frozen weights; `auto` is bfloat16 only where the hardware multiplies it natively."""
    import torch

    if models.dtype != "auto":
        return getattr(torch, models.dtype)
    native = torch.cuda.is_bf16_supported() if device_of(models).type == "cuda" else cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def load_policy(reference: str | Path, models: ModelsConfig) -> Policy:
    """Load a causal language model and its tokenizer.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: type, device, threads and cache.

    Returns:
        The policy in evaluation mode.

    Raises:
        ModelError: the files are missing, damaged or of another kind of model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, device = resolve(reference, models), device_of(models)
    with library_errors(reference):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
        # The way it was fetched would be saved with every policy, and equal policies would have different versions.
        tokenizer.init_kwargs.pop("local_files_only", None)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype_of(models),
            use_safetensors=True,
            trust_remote_code=False,
            # On a CPU the fused attention's backward pass is slower than plain matrices at these lengths (3.3 s against
            # 2.4 s per step of 16 x 91 tokens of the demo model).
            attn_implementation="eager" if device.type == "cpu" else None,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{reference}: the tokenizer has no chat template; use an instruct model, or add chat_template.jinja to it"
        )
    make_head_contiguous(model)
    return Policy(model.to(device).eval(), tokenizer, device, policy_key(reference, models))


def load_encoder(reference: str, models: ModelsConfig) -> Any:
    """Load a sentence encoder as a `SentenceTransformer`.

    Raises:
        ModelError: the files are missing, damaged or of another kind of model.
    """
    from sentence_transformers import SentenceTransformer

    folder = resolve(reference, models)
    with library_errors(reference):
        return SentenceTransformer(
            str(folder), device=str(device_of(models)), trust_remote_code=False, local_files_only=True
        )


def policy_key(reference: str | Path, models: ModelsConfig) -> str:
    """Return a digest of a model's files and type, from the manifest where it is an artifact."""
    folder = resolve(reference, models)
    content = model_digest(folder, Path(models.cache))
    return hashlib.sha256(f"{content} {dtype_of(models)}".encode()).hexdigest()[:16]


def make_head_contiguous(model: Any) -> None:
    """Make the output layer receive contiguous hidden states.

    transformers slices the hidden states before the output layer; on a CPU a strided bfloat16 input turns that one
    multiplication into a batch of small ones (measured: 5 s instead of 0.2 s for 32 x 48 tokens of the demo model).
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether the CPU has instructions that multiply bfloat16."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").split()
        return any(flag in flags for flag in BFLOAT16_FLAGS)
    return False
