"""Chat files as demonstrations: the user's first turn is the prompt, the assistant's last turn is what it demonstrates.

A chat is a list of turns with `role` and `content` (`messages`, as chat models and TRL use them) or with `from` and
`value` (`conversations`, ShareGPT), as data or, in a csv file, as the text of such a list.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from drirl_core.demonstrations.validate import Failure

COLUMNS = ("messages", "conversations", "conversation")
"""Columns that hold a chat by their name; a mapped column may hold one as well."""

_SHOWN = 60
_USER = frozenset({"user", "human", "prompter"})
_ASSISTANT = frozenset({"assistant", "gpt", "model", "bot", "chatgpt"})
_SPEAKERS = {"prompt": _USER, "demonstration": _ASSISTANT, "answer": _ASSISTANT, "refusal": _ASSISTANT}
"""Who says what our columns hold."""


def column_of(name: str, mapped: Mapping[str, str], found: Collection[str]) -> str:
    """Return the column of a file that holds one of ours; of a chat file the one with the turns.

    Args:
        name: our column.
        mapped: the column map of the source, ours -> theirs.
        found: the columns of the file or row.
    """
    if name in mapped or name in found or name not in _SPEAKERS:
        return mapped.get(name, name)
    return next((chat for chat in COLUMNS if chat in found), name)


def spoken(value: Any, name: str, column: str, *, by_name: bool = False) -> Any:
    """Return what a chat says for one of our columns; any other value as it is.

    Args:
        value: what the file holds.
        name: our column.
        column: the file's column.
        by_name: whether the column was taken because of its name alone, so that it must hold a chat.

    Returns:
        The text of the turn, a `Failure` when the chat has none, or `value` when it is no chat.
    """
    if name not in _SPEAKERS:
        return value
    turns = _turns(value, column)
    if turns is None and by_name and value is not None:
        return Failure("missing_value", f"{column} is no list of turns with role and content: {str(value)[:_SHOWN]!r}")
    if turns is None:
        return value
    texts = [text for speaker, text in turns if speaker in _SPEAKERS[name]]
    first = _SPEAKERS[name] is _USER
    if not texts:
        who = "user" if first else "assistant"
        roles = ", ".join(dict.fromkeys(speaker for speaker, _ in turns)) or "none"
        return Failure("missing_value", f"{column} holds no turn of the {who} (roles found: {roles})")
    return texts[0 if first else -1]


def _turns(value: Any, column: str) -> list[tuple[str, Any]] | None:
    """Return speaker and text of each turn, or None for a value that is no chat."""
    if isinstance(value, str) and column in COLUMNS:
        value = _parsed(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return None
    if not all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value):
        return None
    return [(str(turn.get("role", turn.get("from"))).casefold(), _text(turn)) for turn in value]


def _parsed(text: str) -> Any:
    """Read the text of a list: JSON, or Python's own form, which `DataFrame.to_csv` writes."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _text(turn: Mapping[str, Any]) -> Any:
    """Return the text of a turn; of content in parts those that are text, one below the other."""
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))
