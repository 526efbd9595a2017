"""Rows in chat format: a list of turns, each with a role and a text.

The first turn of the user is the prompt, the last turn of the assistant the answer; a system prompt is left out,
because the policy is trained and measured without one.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from drirl_core.files.values import UnreadableError, is_absent, shown

COLUMNS = ("messages", "conversations", "conversation", "chat")
"""Usual names of a column in chat format."""

Role = Literal["user", "assistant"]
_FIELDS = (("role", "content"), ("from", "value"))
_ROLES = {"user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant"}
_ROLES |= dict.fromkeys(("model", "bot", "chatbot", "chatgpt"), "assistant")
_OPENINGS = tuple(f"{{{quote}{name}{quote}" for quote in "'\"" for pair in _FIELDS for name in pair)


def text_of(value: Any, role: Role, *, needed: bool = False) -> Any:
    """Return the text that a chat gives for a role; any other value unchanged.

    Args:
        value: a text, a list of turns (`role` and `content`, or `from` and `value`), or such a list as text.
        role: `user` for the first turn of the user, `assistant` for the last turn of the assistant.
        needed: whether the value must be a chat, because nothing but its name says what its column holds.

    Raises:
        UnreadableError: it is a chat without such a turn, looks like a chat and is none, or is none where one is
            needed.
    """
    turns = _turns(value)
    if turns is None and needed and not is_absent(value):
        raise UnreadableError(f"{shown(value)}, where a list of turns with role and content is needed")
    if turns is None:
        return value
    texts = [text for who, text in turns if who == role and text.strip()]
    if not texts:
        met = ", ".join(dict.fromkeys(who for who, _ in turns)) or "none"
        raise UnreadableError(f"in chat format without a turn of the {role}; roles found: {met}")
    return texts[0] if role == "user" else texts[-1]


def chat_column(found: Sequence[str]) -> str:
    """Return the first column whose name says that it is in chat format, or an empty text."""
    return next((name for name in COLUMNS if name in found), "")


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """Return role and text of each turn; None for a value that is no chat."""
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return None
    fields = next((pair for pair in _FIELDS if all(set(pair) <= set(turn) for turn in value)), None)
    if fields is None:
        return None
    return [(_role(turn[fields[0]]), _content(turn[fields[1]])) for turn in value]


def _role(given: object) -> str:
    word = str(given).strip().casefold()
    return _ROLES.get(word, word)


def _content(given: object) -> str:
    """Return the text of a turn: a text, or the texts of its parts."""
    if given is None:  # a call of a tool
        return ""
    if isinstance(given, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in given]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)  # type: ignore[arg-type]
    if not isinstance(given, str):
        raise UnreadableError(f"in chat format with a turn that is no text: {shown(given)}")
    return given


def _parsed(text: str) -> Any:
    """Return the chat that a text holds, as JSON or as Python writes it; None for any other text."""
    start = text.lstrip()
    inner = start.removeprefix("[").lstrip()
    if not inner.replace(" ", "").startswith(_OPENINGS) or not start.rstrip().endswith(("}", "]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(start)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise UnreadableError("text that looks like chat format but cannot be parsed; save the file as jsonl or parquet")
