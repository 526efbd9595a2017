"""What can be said about a model before it is used: that its files fit together.

A tokenizer with more tokens than the model has rows, a missing end token or an encoder with too few positions shows
only after minutes, as an IndexError deep in a library. Each probe looks once, and says what is wrong and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from drirl_core.errors import ModelError
from drirl_core.models.context import context_length
from drirl_core.models.templates import PROBE, chat_text, record

LONG_TEXT = "I can't help with that, but a walk by the river is a good way to think. " * 40
"""About as long as the longest prompts and answers; it reaches every position that an encoder is asked for."""


def probe_policy(reference: object, tokenizer: Any, config: Any, rows: int, ends: list[int]) -> dict[str, Any]:
    """Check that tokenizer, chat template and model fit together, without computing anything.

    Args:
        reference: of the model, for messages.
        tokenizer: with the defaults of `templates.pin`, and a padding token.
        config: the transformers configuration of the model.
        rows: rows of the model's input embedding.
        ends: ids of the tokens that end a completion.

    Returns:
        What was found, for a person: tokens of a rendered turn, context, end tokens.

    Raises:
        ModelError: something does not fit.
    """
    rendered = chat_text(tokenizer, PROBE)
    if PROBE not in rendered:
        raise ModelError(
            f"{reference}: the chat template does not print the user's message: {rendered[:200]!r}; correct "
            "chat_template.jinja, or use an instruct model"
        )
    if not ends:
        raise ModelError(
            f"{reference}: there is no end token, so that a completion would never end; set eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{reference}: there is no padding token; set pad_token in tokenizer_config.json")
    turn = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    special = {"pad_token": [tokenizer.pad_token_id], "eos_token": ends, "the chat template": turn}
    for name, ids in {**special, "the vocabulary": [_last_plain(tokenizer)]}.items():
        if max(ids) >= rows:
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise ModelError(
                f"{reference}: {name} has the token {token!r} with id {max(ids)}, but the model has only {rows} "
                "embedding rows; tokenizer and weights do not belong together: fetch both from the same place, or "
                "resize the embedding (model.resize_token_embeddings) and save the model again"
            )
    return {"turn_tokens": len(turn), "context": context_length(config), "ends": tokenizer.convert_ids_to_tokens(ends)}


def describe_policy(found: Mapping[str, Any], tokenizer: Any, thinking: bool) -> str:
    """Say what a probe found, in one line."""
    parts = [f"a turn renders as {found['turn_tokens']} tokens", f"ends with {', '.join(found['ends'])}"]
    parts.append(f"reads {found['context']} tokens" if found["context"] else "has no limit of length")
    rendering = record(tokenizer, thinking)
    if "template_date" in rendering:
        parts.append(f"the template's date is fixed to {rendering['template_date']}")
    if "thinking" in rendering:
        parts.append(f"thinking is {rendering['thinking']}")
    return "; ".join(parts)


def _last_plain(tokenizer: Any) -> int:
    """Return the highest id that plain text can have; tokens added beside the vocabulary need not be used."""
    added = tokenizer.get_added_vocab()
    return max((number for token, number in tokenizer.get_vocab().items() if token not in added), default=0)


def probe_encoder(reference: object, encoder: Any) -> str:
    """Check that a sentence encoder can read a long text.

    Args:
        reference: of the encoder, for messages.
        encoder: a `SentenceTransformer`.

    Returns:
        What was found, in one line.

    Raises:
        ModelError: it cannot be computed, or its values are not finite.
    """
    longest = getattr(encoder, "max_seq_length", None)
    try:
        vector = encoder.encode([LONG_TEXT], prompt="", show_progress_bar=False, convert_to_numpy=True)[0]
    except Exception as error:  # IndexError, RuntimeError: whatever the layers raise
        raise ModelError(
            f"{reference} cannot encode a long text ({type(error).__name__}: {error}); max_seq_length in "
            f"sentence_bert_config.json is {longest}: lower it to the positions that config.json gives the model"
        ) from error
    if vector.ndim != 1 or not all(math.isfinite(value) for value in vector.tolist()):
        raise ModelError(
            f"{reference}: the embedding of a long text has the shape {vector.shape} or values that are not finite; "
            "check the files of its modules (modules.json)"
        )
    limit = f"the first {longest} tokens" if longest else "all tokens"
    return f"embeds {limit} of a text in {len(vector)} dimensions, without a prompt of its own"
