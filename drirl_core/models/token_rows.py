"""Prompts and completions as tokens: tokenised separately, as in generation, and cut to what a policy can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from drirl_core.errors import DataError
from drirl_core.models.context import shown


class TokenRow(NamedTuple):
    """Tokens of a rendered prompt and of a completion without its end token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def token_rows(tokenizer: Any, texts: Sequence[tuple[str, str]], limit: int | None) -> list[TokenRow]:
    """Tokenise rows; of a completion that does not fit, the beginning is read.

    Args:
        tokenizer: of the policy.
        texts: rendered prompt and completion of each row.
        limit: tokens that the policy can read; None for no limit.

    Returns:
        One row per text, in order.

    Raises:
        DataError: a prompt alone is longer than the limit.
    """
    prompts = {prompt: tuple(tokens_of(tokenizer, prompt)) for prompt, _ in texts}
    for text, tokens in prompts.items():
        if limit is not None and len(tokens) > limit:
            raise DataError(
                f"the prompt {shown(text)} has {len(tokens)} tokens as the model reads it, more than the {limit} that "
                "it can read; shorten or remove it"
            )
    room = {text: None if limit is None else limit - len(tokens) for text, tokens in prompts.items()}
    return [TokenRow(prompts[p], tuple(tokens_of(tokenizer, c)[: room[p]])) for p, c in texts]


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text alone, without special tokens around it."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
