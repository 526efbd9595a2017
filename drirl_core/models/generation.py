"""How completions are drawn is decided by our settings alone, never by files beside the weights.

Many models ship a generation_config.json with a repetition penalty, stop strings, beams or banned tokens, and
`generate` takes every value from it that a caller leaves open. A policy keeps its special tokens, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drirl_core.errors import ModelError

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What is kept: the ids of the special tokens, all end tokens among them."""
_NO_DECISION = (*SPECIAL, "transformers_version", "use_cache")


def inherited_settings(folder: Path, reference: object) -> dict[str, Any]:
    """Read the generation settings that a model's directory brings, without using any.

    Args:
        folder: the directory.
        reference: of the model, for messages.

    Returns:
        Settings by name: those of generation_config.json, else those that old models keep in config.json.

    Raises:
        ModelError: the file is not JSON.
    """
    from transformers import GenerationConfig

    own = folder / "generation_config.json"
    file = own if own.is_file() else folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{reference} cannot be loaded: {file} is not JSON ({error}); fetch it again, or delete it"
        ) from error
    known = vars(GenerationConfig())
    return {name: value for name, value in found.items() if file == own or name in known}


def only_special_tokens(model: Any, tokenizer: Any, inherited: dict[str, Any]) -> dict[str, Any]:
    """Give a model generation settings that hold its special tokens alone.

    A checkpoint that is saved later carries these clean settings.

    Args:
        model: a transformers model that generates.
        tokenizer: its tokenizer, which has an end token and a padding token.
        inherited: what its directory brings, see `inherited_settings`.

    Returns:
        The inherited settings that do not act, by name; empty where there were none.
    """
    from transformers import GenerationConfig

    ends = end_tokens(tokenizer, inherited)
    model.generation_config = GenerationConfig(
        bos_token_id=inherited.get("bos_token_id", tokenizer.bos_token_id),
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {name: value for name, value in inherited.items() if _acts(name, value)}


def end_tokens(tokenizer: Any, inherited: dict[str, Any]) -> list[int]:
    """Return the ids of all tokens that end a completion, the tokenizer's own first.

    Args:
        tokenizer: of the model.
        inherited: generation settings with `eos_token_id`, one id or several.
    """
    ends = inherited.get("eos_token_id")
    known = [tokenizer.eos_token_id, *(ends if isinstance(ends, list | tuple) else [ends])]
    return [int(token) for token in dict.fromkeys(known) if token is not None]


def _acts(name: str, value: Any) -> bool:
    return value is not None and value is not False and name not in _NO_DECISION and not name.startswith("_")
