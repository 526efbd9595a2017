"""How completions are drawn is decided by our settings alone, never by files beside the weights.

Many models ship a generation_config.json with a repetition penalty, stop strings, beams or banned tokens, and
`generate` takes every value from it that a caller leaves open. A policy keeps its special tokens, and nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What is kept: the ids of the special tokens, all end tokens among them."""
_NO_DECISION = (*SPECIAL, "transformers_version", "use_cache")


def drop_inherited(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Replace the generation settings that came with a model by its special tokens alone.

    A checkpoint that is saved later carries the clean settings.

    Args:
        model: a transformers model that generates.
        tokenizer: its tokenizer, which has an end token and a padding token.

    Returns:
        The settings that no longer act, by name; empty where there were none.
    """
    from transformers import GenerationConfig

    came = model.generation_config
    dropped = {name: value for name, value in came.to_dict().items() if _acts(name, value)}
    for config in (model.config, model.config.get_text_config()):
        dropped |= _taken_out(config, vars(GenerationConfig()))
    ends = end_tokens(model, tokenizer)
    model.generation_config = GenerationConfig(
        bos_token_id=came.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    return dropped


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the ids of all tokens that end a completion, the tokenizer's own first.

    Args:
        model: a transformers model that generates.
        tokenizer: its tokenizer.
    """
    ends = model.generation_config.eos_token_id
    known = [tokenizer.eos_token_id, *(ends if isinstance(ends, list | tuple) else [ends])]
    return [int(token) for token in dict.fromkeys(known) if token is not None]


def _acts(name: str, value: Any) -> bool:
    return value is not None and value is not False and name not in _NO_DECISION and not name.startswith("_")


def _taken_out(config: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Remove generation settings from a model's own configuration, where old files have them.

    transformers refuses to save a checkpoint that has any, which would be noticed after all training.
    """
    declared = {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set()
    names = [name for name in vars(config) if name in known and name not in declared and name not in _NO_DECISION]
    found = {name: getattr(config, name) for name in names if not name.startswith("_")}
    for name in found:
        delattr(config, name)
    return {name: value for name, value in found.items() if _acts(name, value)}
