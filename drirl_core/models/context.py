"""The longest text a policy can read, and prompts that do not fit into it.

A model with learned positions crashes on a longer text, and one with rotary positions continues as if nothing happened,
far outside what it was trained for. So such prompts are refused before anything trains or samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drirl_core.errors import DataError

_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
_EXTRA_TOKENS = 8
"""A tokenizer may put this many tokens before the bytes of a text."""
SHOWN_CHARS = 80
"""Characters of a prompt that an error quotes."""


def context_length(config: Any) -> int | None:
    """Return how many tokens a model can read, prompt and completion together.

    Args:
        config: the transformers configuration of the model.

    Returns:
        The number of positions, scaled ones included; None for a model without a limit, such as a recurrent one.
    """
    text = config.get_text_config()
    found = next((value for name in _NAMES if isinstance(value := getattr(text, name, None), int)), None)
    if found is None or found <= 0:
        return None
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None)
    return max(found, _scaled(scaling)) if isinstance(scaling, Mapping) else found


def _scaled(scaling: Mapping[str, Any]) -> int:
    """Return the positions that a rotary scaling reaches; 0 where it names none."""
    factor, before = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    return int(factor * before) if isinstance(factor, int | float) and isinstance(before, int) else 0


def too_long(tokenizer: Any, texts: Sequence[str], new_tokens: int, limit: int | None) -> list[tuple[int, int]]:
    """Find the rendered prompts that leave no room for a completion.

    Args:
        tokenizer: of the policy.
        texts: rendered prompts.
        new_tokens: length limit of the completion.
        limit: tokens that the policy can read; None for no limit.

    Returns:
        Place and tokens of each text that is too long, in order.
    """
    if limit is None:
        return []
    # No tokenizer makes more tokens than a text has bytes, so most texts need not be counted.
    long = [
        i for i, text in enumerate(texts) if len(text.encode("utf-8", "replace")) + _EXTRA_TOKENS > limit - new_tokens
    ]
    counts = [(i, len(tokenizer(texts[i], add_special_tokens=False)["input_ids"])) for i in long]
    return [(i, tokens) for i, tokens in counts if tokens + new_tokens > limit]


def require_room(
    tokenizer: Any, rows: Mapping[str, str], new_tokens: int, limit: int | None, setting: str = "max_new_tokens"
) -> None:
    """Refuse prompts that leave no room for a completion.

    Args:
        tokenizer: of the policy.
        rows: rendered prompt by what the error calls it, such as the prompt itself.
        new_tokens: length limit of the completion.
        limit: tokens that the policy can read; None for no limit.
        setting: name of the setting that `new_tokens` comes from; empty where none can be lowered.

    Raises:
        DataError: a prompt is too long; the message names the first one.
    """
    found = too_long(tokenizer, list(rows.values()), new_tokens, limit)
    if found:
        place, tokens = found[0]
        raise DataError(no_room(list(rows)[place], tokens, new_tokens, limit, setting) + _others(len(found) - 1))


def no_room(prompt: str, tokens: int, new_tokens: int, limit: int | None, setting: str) -> str:
    """Say that a prompt leaves no room for its completion.

    Args:
        prompt: the prompt, or what to call it.
        tokens: its tokens as the policy reads it.
        new_tokens: length limit of the completion.
        limit: tokens that the policy can read.
        setting: name of the setting that `new_tokens` comes from; empty where none can be lowered.
    """
    lower = f", or lower {setting}" if setting else ""
    return (
        f"the prompt {shown(prompt)} has {tokens} tokens as the model reads it, and with {new_tokens} new ones more "
        f"than the {limit} that the model can read; shorten or remove the prompt{lower}"
    )


def _others(count: int) -> str:
    return f" ({count} more prompts are too long)" if count else ""


def shown(prompt: str) -> str:
    """Return the beginning of a prompt on one line, quoted."""
    line = " ".join(prompt.split())
    return repr(line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}...")
