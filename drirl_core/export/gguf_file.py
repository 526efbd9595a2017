"""One GGUF file of a policy, for llama.cpp and programs built on it.

Names of tensors, number types and the file format are those of the package `gguf`. What is here is what llama.cpp
expects of a family beyond that: the order of the rows of queries and keys, and the numbers that describe the model.
Tensors are read, converted and written one by one, so that the memory of one is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ModelError
from drirl_core.export.gguf_tokens import add_tokenizer

if TYPE_CHECKING:
    import numpy as np

TYPES = ("f32", "f16", "bf16", "q8_0")
"""Number types of the matrices; vectors such as norms stay in float32."""
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


@dataclass(frozen=True)
class Family:
    """What llama.cpp calls a family of models, and how it wants them.

    Args:
        name: of the architecture in the file.
        interleaved: whether rotary pairs are neighbours there, and halves of a head in transformers.
        own_heads: whether the size of a head is always said.
    """

    name: str
    interleaved: bool = False
    own_heads: bool = False


FAMILIES = {
    "llama": Family("llama", interleaved=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3", own_heads=True),
}
"""By transformers' `model_type`."""


def require_family(folder: Path) -> Family:
    """Return the family of a policy.

    Args:
        folder: of the policy.

    Raises:
        ModelError: GGUF files of its family are not written.
    """
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"the policy is a model of type {kind}; GGUF files are written for {', '.join(FAMILIES)}. Export without "
            "--gguf, and convert with llama.cpp's own convert_hf_to_gguf.py"
        )
    return FAMILIES[kind]


def write_gguf(folder: Path, file: Path, kind: str, said: Mapping[str, str]) -> None:
    """Write a policy as one GGUF file.

    Args:
        folder: of the policy: config.json, safetensors and the tokenizer.
        file: to write.
        kind: number type of the matrices, one of `TYPES`.
        said: for people: `name`, `license` and `base` of the model.

    Raises:
        ModelError: its family, tokenizer or positions cannot be described in such a file.
    """
    from gguf import GGUFWriter
    from transformers import AutoConfig

    family, config = require_family(folder), AutoConfig.from_pretrained(folder, trust_remote_code=False)
    writer = GGUFWriter(file, family.name)
    try:
        _describe(writer, config, family, kind)
        _say(writer, said)
        add_tokenizer(writer, folder, config.vocab_size)
        _write_tensors(writer, _Tensors(folder, config, family, kind), rope_factors(config))
    finally:
        writer.close()


def _describe(writer: Any, config: Any, family: Family, kind: str) -> None:
    """Write the numbers that describe the model."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    rope = config.rope_parameters
    scaling = rope.get("rope_type", "default")
    if scaling not in ("default", "llama3", "linear", "yarn"):
        raise ModelError(f"positions of the type {scaling!r} cannot be described in a GGUF file; export without --gguf")
    head = head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if family.interleaved:
        writer.add_rope_dimension_count(head)
    if family.own_heads or head * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head)
        writer.add_value_length(head)
    if scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(scaling))
        writer.add_rope_scaling_factor(rope["factor"])
    if scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_file_type(LlamaFileType[_FILE_TYPES[kind]])
    if kind == "q8_0":
        writer.add_quantization_version(GGML_QUANT_VERSION)


def _say(writer: Any, said: Mapping[str, str]) -> None:
    """Write what people read about the model."""
    writer.add_type("model")
    writer.add_name(said["name"])
    writer.add_license(said["license"])
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, said["base"].rpartition("/")[2])
    if "/" in said["base"]:
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{said['base']}")


def head_size(config: Any) -> int:
    """Return the size of one head of attention."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_factors(config: Any) -> np.ndarray | None:
    """Return by how much Llama 3.1 slows each rotation, which llama.cpp reads as a tensor of its own.

    Args:
        config: of the model.

    Returns:
        One factor per pair of a head, shape (head / 2,), between 1 for fast rotations and `factor` for slow ones; None
        for models whose positions are not scaled so.
    """
    import numpy as np

    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    head, context = head_size(config), rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    factors = []
    for pair in range(0, head, 2):
        turns = context * rope["rope_theta"] ** (-pair / head) / (2 * math.pi)  # of this pair over the context
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - share) / factor + share))
    return np.array(factors, dtype=np.float32)


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of a query or key matrix so that the two numbers of a rotary pair are neighbours.

    Args:
        rows: matrix or bias as transformers has it, shape (heads * size, ...): of each head the first halves of all
            pairs, then the second halves.
        heads: of queries, or of keys.

    Returns:
        The same rows, shape unchanged.
    """
    apart = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return apart.swapaxes(1, 2).reshape(rows.shape)


class _Tensors:
    """The tensors of a policy as the file has them, each converted when it is asked for."""

    def __init__(self, folder: Path, config: Any, family: Family, kind: str) -> None:
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        self._config, self._family, self._kind = config, family, kind
        architecture = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == family.name)
        names = get_tensor_name_map(architecture, config.num_hidden_layers)
        self._found = {}
        for own, file in sorted(_files(folder).items(), key=lambda entry: _order(entry[0])):
            if own == "lm_head.weight" and config.tie_word_embeddings:
                continue
            name = names.get_name(own, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise ModelError(f"{folder}: the tensor {own} has no name in a GGUF file of a {family.name} model")
            self._found[name] = (own, file)

    def infos(self) -> dict[str, tuple[Sequence[int], Any]]:
        """Return shape and number type of each tensor, by its name in the file."""
        from safetensors import safe_open

        found = {}
        for name, (own, file) in self._found.items():
            with safe_open(file, framework="pt") as opened:
                shape = opened.get_slice(own).get_shape()
            found[name] = (shape, self._type(shape))
        return found

    def array(self, name: str) -> np.ndarray:
        """Return a tensor in the number type of the file."""
        from gguf.quants import quantize
        from safetensors import safe_open

        own, file = self._found[name]
        with safe_open(file, framework="pt") as opened:
            values = opened.get_tensor(own).float().numpy()
        if self._family.interleaved and ".attn_q." in name:
            values = permuted(values, self._config.num_attention_heads)
        if self._family.interleaved and ".attn_k." in name:
            values = permuted(values, self._config.num_key_value_heads)
        return quantize(values, self._type(values.shape))

    def _type(self, shape: Sequence[int]) -> Any:
        """Return the number type; rows that do not fill blocks of 32 stay in float16, as in llama.cpp's converter."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if len(shape) == 1:
            return GGMLQuantizationType.F32
        wanted = GGMLQuantizationType[self._kind.upper()]
        return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _write_tensors(writer: Any, tensors: _Tensors, factors: np.ndarray | None) -> None:
    import numpy as np
    from gguf.quants import quant_shape_to_byte_shape

    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    infos = tensors.infos()
    for name, (shape, kind) in infos.items():
        size = math.prod(quant_shape_to_byte_shape(shape, kind))
        if kind.name in ("F32", "F16"):
            writer.add_tensor_info(name, shape, np.dtype(f"float{kind.name[1:]}"), size)
        else:
            bytes_shape = quant_shape_to_byte_shape(shape, kind)
            writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name in infos:
        writer.write_tensor_data(tensors.array(name))


def _files(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _order(name: str) -> tuple[int, str]:
    """Order tensors as the model computes: embeddings, layers, the rest."""
    parts = name.split(".")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    return (layer if layer is not None else -1 if "embed" in name else 1 << 30, name)
