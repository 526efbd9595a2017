"""What a GGUF file says about a tokenizer: llama.cpp knows the rules by which texts are split by their names alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.errors import ModelError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORDS + r"\p{N}" + _REST: "qwen2",
}
"""Name of each splitting rule; Llama 3 takes up to three digits as a word, Qwen 2 and 3 one."""
PADDING = "[PAD{}]"
"""Name of an id that the model has and the tokenizer has not."""


def add_tokenizer(writer: Any, folder: Path, size: int) -> None:
    """Write the tokens, merges, special ids and the chat template of a policy.

    Args:
        writer: a `gguf.GGUFWriter`.
        folder: of the policy, with tokenizer.json and chat_template.jinja.
        size: ids that the model has; the tokenizer may have fewer.

    Raises:
        ModelError: it is no byte-level BPE, it splits texts by a rule that llama.cpp has no name for, or it has more
            tokens than the model.
    """
    from gguf import SpecialVocab

    described = _described(folder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_rule(described, folder))
    tokens, types = _tokens(described, size, folder)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = SpecialVocab(folder, load_merges=True, n_vocab=size)
    if not special.merges:
        raise ModelError(f"{folder / 'tokenizer.json'} has no merges, without which llama.cpp loads no byte-level BPE")
    special.add_special_token["bos"] = _begins_texts(folder)
    special.add_to_gguf(writer, quiet=True)


def splitting_rule(described: Mapping[str, Any], folder: Path) -> str:
    """Return llama.cpp's name of the rule by which a tokenizer splits texts before it merges bytes.

    Args:
        described: content of tokenizer.json.
        folder: where it is, for messages.

    Raises:
        ModelError: the rule has no name there.
    """
    own = described.get("pre_tokenizer") or {}
    parts = own.get("pretokenizers", [own])
    kinds = [part.get("type") for part in parts]
    last = parts[-1] if parts else {}
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and last.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and parts[0].get("behavior") == "Isolated" and not last.get("use_regex", True):
        name = _SPLITS.get(parts[0].get("pattern", {}).get("Regex", ""))
        if name:
            return name
    said = ", ".join(map(str, kinds))
    raise ModelError(
        f"{folder / 'tokenizer.json'} splits texts by a rule that has no name in a GGUF file ({said}); known are "
        "those of GPT-2, SmolLM, Llama 3, Qwen 2 and Qwen 3. Export without --gguf, and convert with llama.cpp's own "
        "convert_hf_to_gguf.py"
    )


def _described(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}); a GGUF file needs a policy with a fast tokenizer"
        ) from error
    model = found["model"]
    decoder = (found.get("decoder") or {}).get("type")
    if model.get("type") != "BPE" or model.get("byte_fallback") or decoder != "ByteLevel":
        raise ModelError(
            f"{file} is a {model.get('type')} tokenizer with the decoder {decoder}; GGUF files are written for "
            "byte-level BPE, as Llama 3, SmolLM2 and Qwen have. Export without --gguf"
        )
    return found


def _tokens(described: Mapping[str, Any], size: int, folder: Path) -> tuple[list[str], list[int]]:
    """Return text and type of every id of the model, in order."""
    from gguf import TokenType

    by_id = {number: (text, TokenType.NORMAL) for text, number in described["model"]["vocab"].items()}
    for added in described.get("added_tokens") or ():
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    if max(by_id) >= size:
        raise ModelError(
            f"{folder}: the tokenizer has the id {max(by_id)}, and the model only {size} ids; train it again"
        )
    pairs = [by_id.get(number, (PADDING.format(number), TokenType.UNUSED)) for number in range(size)]
    return [text for text, _ in pairs], [int(kind) for _, kind in pairs]


def _begins_texts(folder: Path) -> bool:
    """Return whether the tokenizer puts its first token before every text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    first = tokenizer("a")["input_ids"][0]
    return tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id
