"""Thoughts of reasoning models: what they write before the answer, and what nobody is meant to see.

A thought is cut before a completion is judged, rewarded, compared or shown: a policy that considers a refusal and then
complies has complied. A thought that never ends is no answer. Some chat templates open the thought in the generation
prompt, so that the completion holds only its end.
"""

from __future__ import annotations

import re

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How families of models mark the beginning and the end of a thought."""

MARKERS = frozenset(tag for pair in TAGS for tag in pair) | {"<|channel|>", "<|message|>"}
"""Tokens that must survive decoding, although many tokenizers count them among the special ones."""


def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(tag) for tag in tags), re.IGNORECASE)


_OPENING, _CLOSING = (_pattern(tuple(pair[side] for pair in TAGS)) for side in (0, 1))


def cut_thoughts(text: str) -> str:
    """Return what follows the last finished thought, up to a thought that is not finished.

    Args:
        text: a completion.

    Returns:
        The visible text, stripped; empty when the completion is an unfinished thought. A text without any mark of a
        thought is returned unchanged.
    """
    begin, opening = _outside(text)
    if not begin and not opening:
        return text
    return text[begin : opening.start() if opening else len(text)].strip()


def is_unfinished(text: str) -> bool:
    """Return whether a completion ends inside a thought, and says nothing outside it."""
    return _outside(text)[1] is not None and not cut_thoughts(text)


def _outside(text: str) -> tuple[int, re.Match[str] | None]:
    """Return where the last finished thought ends, 0 for none, and the thought that is opened after it."""
    begin = max((closing.end() for closing in _CLOSING.finditer(text)), default=0)
    return begin, _OPENING.search(text, begin)


def opened_by(prompt: str) -> tuple[str, str] | None:
    """Return the tags of the thought that a rendered prompt leaves open at its very end.

    Args:
        prompt: a prompt as the chat template renders it, ready for the completion.

    Returns:
        Opening and closing tag, or None where the completion begins with the answer.
    """
    end = prompt.rstrip().lower()
    return next((pair for pair in TAGS if end.endswith(pair[0].lower())), None)


def closed(prompt: str) -> str:
    """Return a rendered prompt after which the answer comes: a thought that it leaves open is ended without a word."""
    tags = opened_by(prompt)
    return f"{prompt.rstrip()}\n\n{tags[1]}\n\n" if tags else prompt
