"""Load models: weights, tokenizer, device and type; the only module that loads weights for use."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models import templates
from drirl_core.models.context import context_length
from drirl_core.models.digests import model_digest
from drirl_core.models.generation import end_tokens, inherited_settings, only_special_tokens
from drirl_core.models.probe import probe_encoder, probe_policy
from drirl_core.models.quantization import is_quantized, prepare, quantized_loading
from drirl_core.models.references import library_errors, resolve
from drirl_core.models.sharding import is_sharded, keep_sharded, sharded_loading

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

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
        rendering: what its chat template adds, for the metadata of artifacts; see `templates.record`.
        notes: what was set aside when it was loaded, for the log.
        unquantized: loads the complete, unquantized weights into CPU memory; None where `model` holds them already.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    key: str
    rendering: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unquantized: Callable[[], Any] | None = None

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def context(self) -> int | None:
        """Tokens that it can read, prompt and completion together; None for no limit."""
        config = getattr(self.model, "config", None)
        return context_length(config) if config is not None else None


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


def without_cudnn_attention() -> None:
    """Keep torch from computing attention on a GPU by cuDNN, for this process.

    Its backward pass gives gradients that are not a number where a mask is given, rows are 64 tokens longer than a
    multiple of 128 and a query sees nothing, as on padding (torch 2.11 to 2.13 on an H100 or H200,
    pytorch/pytorch#196678): seen here as the first step of fine-tuning on an H200. The other kernels are not affected.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def dtype_of(models: ModelsConfig) -> torch.dtype:
    """Return the type of frozen weights; `auto` is bfloat16 only where the hardware multiplies it natively."""
    import torch

    if models.dtype != "auto":
        return getattr(torch, models.dtype)
    native = torch.cuda.is_bf16_supported() if device_of(models).type == "cuda" else cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def load_policy(reference: str | Path, models: ModelsConfig, shards: int = 1) -> Policy:
    """Load a causal language model and its tokenizer.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: type, device, threads and cache.
        shards: processes of the group of this one that hold a part of the weights each; 1 holds them all.

    Returns:
        The policy in evaluation mode.

    Raises:
        ModelError: the files are missing, damaged, of another kind of model, or do not fit together; or the weights
            cannot be quantised here.
    """
    import torch

    device = device_of(models)
    placed = sharded_loading(shards, device) or quantized_loading(models.quantization, device, dtype_of(models))
    folder = resolve(reference, models)
    if device.type == "cuda":
        without_cudnn_attention()
    tokenizer, inherited = load_tokenizer(reference, models), inherited_settings(folder, reference)
    model = _weights(folder, reference, device, dtype_of(models), placed)
    ends = end_tokens(tokenizer, inherited)
    complete_special_tokens(tokenizer, ends)
    probe_policy(reference, tokenizer, model.config, len(model.get_input_embeddings().weight), ends)
    notes = _said_of(reference, only_special_tokens(model, tokenizer, inherited))
    make_head_contiguous(model)
    rendering = templates.record(tokenizer, models.thinking)
    unquantized = functools.partial(_weights, folder, reference, torch.device("cpu"), dtype_of(models), {})
    return Policy(
        (model if placed else model.to(device)).eval(),
        tokenizer,
        device,
        policy_key(reference, models),
        rendering,
        notes,
        unquantized if placed else None,
    )


def _weights(
    folder: Path, reference: str | Path, device: torch.device, dtype: torch.dtype, placed: Mapping[str, Any]
) -> Any:
    """Load the weights of a causal language model, on the CPU unless `placed` says where.

    Args:
        folder: directory of the model.
        reference: of the model, for messages.
        device: where it will compute.
        dtype: type of the weights.
        placed: further arguments of the loading, see `quantized_loading` and `sharded_loading`.

    Raises:
        ModelError: the files are missing, damaged, of another kind of model, or lack weights.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    from drirl_core.models.attention import share_heads

    with library_errors(reference):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            generation_config=GenerationConfig(),
            # On a CPU the fused attention's backward pass is slower than plain matrices at these lengths (3.3 s against
            # 2.4 s per step of 16 x 91 tokens of the demo model).
            attn_implementation="eager" if device.type == "cpu" else None,
            **placed,
        )
    _require_all_weights(reference, loaded)
    if is_quantized(model):
        prepare(model)
    if is_sharded(model):
        keep_sharded(model)
    if device.type == "cpu":
        share_heads(model)
    return model


def load_tokenizer(reference: str | Path, models: ModelsConfig) -> Any:
    """Load the tokenizer of a policy, padding on the left, with the defaults of its chat template.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: cache, and whether reasoning models may think.

    Raises:
        ModelError: the files are missing or damaged, or there is no chat template.
    """
    return tokenizer_at(resolve(reference, models), reference, models)


def tokenizer_at(folder: Path, reference: str | Path, models: ModelsConfig) -> Any:
    """Load the tokenizer in a directory, which needs no weights; see `load_tokenizer`.

    Args:
        folder: the directory.
        reference: of the model, for messages.
        models: whether reasoning models may think.

    Raises:
        ModelError: the files are missing or damaged, or there is no chat template.
    """
    from transformers import AutoTokenizer

    with library_errors(reference):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    # The way it was fetched would be saved with every policy, and equal policies would have different versions.
    tokenizer.init_kwargs.pop("local_files_only", None)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{reference}: the tokenizer has no chat template; use an instruct model, or add chat_template.jinja to it"
        )
    templates.pin(tokenizer, models.thinking)
    return tokenizer


@functools.lru_cache(maxsize=4)
def kept_tokenizer(reference: str | Path, models: ModelsConfig, _key: str) -> Any:
    """Load a tokenizer to render prompts; the last few stay in memory, under the digest of their model's files."""
    return load_tokenizer(reference, models)


def rendering_of(reference: str | Path, models: ModelsConfig) -> dict[str, str]:
    """Say what the chat template of a policy adds to prompts, for the metadata of an artifact.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: cache, and whether reasoning models may think.

    Returns:
        As `templates.record`.

    Raises:
        ModelError: the tokenizer cannot be loaded.
    """
    tokenizer = kept_tokenizer(reference, models, policy_key(reference, models))
    return templates.record(tokenizer, models.thinking)


def reading_of(reference: str | Path, models: ModelsConfig) -> tuple[Any, int | None]:
    """Return the tokenizer of a policy, and how many tokens it can read, without loading its weights.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: cache, and whether reasoning models may think.

    Raises:
        ModelError: a file is missing or damaged.
    """
    from transformers import AutoConfig

    with library_errors(reference):
        config = AutoConfig.from_pretrained(resolve(reference, models), trust_remote_code=False)
    return kept_tokenizer(reference, models, policy_key(reference, models)), context_length(config)


def complete_special_tokens(tokenizer: Any, ends: list[int]) -> None:
    """Give a tokenizer the end token of its model and a padding token, where it has none.

    Args:
        tokenizer: changed in place.
        ends: ids of the tokens that end a completion.
    """
    if tokenizer.eos_token is None and ends:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def _require_all_weights(reference: str | Path, loaded: Mapping[str, Any]) -> None:
    """Refuse a model of which some weights are in no file: transformers fills them with random numbers."""
    missing = sorted(loaded.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"{reference}: {len(missing)} weights are in none of its files, such as {missing[0]}, and would be random; "
            "the model is incomplete, or was saved without its output layer: fetch or save it again"
        )


def _said_of(reference: str | Path, dropped: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which generation settings of a model's directory do not act; nothing where there are none."""
    if not dropped:
        return ()
    listed = ", ".join(f"{name}={value}" for name, value in sorted(dropped.items()))
    return (
        f"{reference}: the generation settings in its directory are not used, only its special tokens ({listed}); how "
        "completions are drawn is set by completions, policy and benchmarks",
    )


def load_encoder(reference: str, models: ModelsConfig) -> Any:
    """Load a sentence encoder as a `SentenceTransformer` without a default prompt.

    Raises:
        ModelError: the files are missing, damaged or of another kind of model, or a long text cannot be encoded.
    """
    from sentence_transformers import SentenceTransformer

    folder = resolve(reference, models)
    with library_errors(reference):
        encoder = SentenceTransformer(
            str(folder), device=str(device_of(models)), trust_remote_code=False, local_files_only=True
        )
    if encoder.default_prompt_name is not None:
        logger.warning(
            "%s: its default prompt %r is not used; texts are encoded as they are",
            reference,
            encoder.prompts.get(encoder.default_prompt_name, encoder.default_prompt_name),
        )
        encoder.default_prompt_name = None
    probe_encoder(reference, encoder)
    return encoder


def policy_key(reference: str | Path, models: ModelsConfig) -> str:
    """Return a digest of a model's files and type, from the manifest where it is an artifact."""
    folder = resolve(reference, models)
    content = model_digest(folder, Path(models.cache))
    held = f"{dtype_of(models)}" + (f" {models.quantization}" if models.quantization != "none" else "")
    return hashlib.sha256(f"{content} {held}".encode()).hexdigest()[:16]


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
