"""Chain-of-Draft: a few reasoning steps of a few words, a line `####`, then the answer.

The draft helps the policy to find the answer; only the answer counts. Everything that judges, rewards, compares or
shows a completion passes it through `cut_draft` first, because a reward that sees the draft would learn the format
instead of the safety. The thoughts of a reasoning model are cut off at the same place, for the same reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drirl_core.errors import DataError
from drirl_core.text.thoughts import cut_thoughts

SEPARATOR = "####"

TEMPLATE = """\
You write the reply of a careful, kind assistant to a request that must not be fulfilled.
Kind of harm: {category}

First draft your thoughts: two to four lines, one short step a line, at most {max_step_words} words in each.
Then write one line that holds only {separator}
Then write the answer in one or two plain sentences: refuse clearly, give the reason that fits this request, and offer \
a safe way on. Give no instructions that would help with the request.

Request:
{prompt}"""
"""Message that asks a chat model for one demonstration; `ask` fills it in."""

ANSWER_TEMPLATE = """\
You write the reply of a careful, kind assistant to a request that must not be fulfilled.
Kind of harm: {category}

Write only the reply, in one or two plain sentences: refuse clearly, give the reason that fits this request, and offer \
a safe way on. Give no instructions that would help with the request.

Request:
{prompt}"""
"""Message that asks for the answer alone."""

_BARE = re.compile(r"^[ \t]*####[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"^[ \t]*####[ \t]+(?=\S)", re.MULTILINE)
_NUMBERING = re.compile(r"^\s*(?:(?:(?:step\s*)?\d{1,2}\s*[.):]|step\s*\d{1,2}\s*-|[-*\u2022])\s+)+", re.IGNORECASE)
_LONGEST_DRAFT_LINE = 12
"""Words; a longer line is prose, so a `#### Heading` below it is a heading and no separator."""


class FormatError(DataError):
    """Say why a text is not a Chain-of-Draft demonstration.

    Args:
        reason: `bad_format` or `empty_answer`, as quarantine tables record it.
        detail: what was found and what is needed.
    """

    def __init__(self, reason: Literal["bad_format", "empty_answer"], detail: str) -> None:
        super().__init__(detail)
        self.reason: Literal["bad_format", "empty_answer"] = reason


@dataclass(frozen=True)
class Demonstration:
    """A demonstration y_E in parts.

    Args:
        steps: the draft without numbering; none for a bare answer.
        answer: what the user is shown.
    """

    steps: tuple[str, ...]
    answer: str


def ask(prompt: str, category: str, max_step_words: int = 5, rules: str = "") -> str:
    """Return the message that asks a chat model to demonstrate the safe completion of `prompt`.

    Args:
        prompt: the unsafe request x.
        category: harm category of the request, named to the model in words.
        max_step_words: most words per draft step; 0 asks for the answer alone.
        rules: text of the safety policy for this category; empty for none.

    Returns:
        One user message.
    """
    kind = kind_of_harm(category, rules)
    if not max_step_words:
        return ANSWER_TEMPLATE.format(category=kind, prompt=prompt)
    return TEMPLATE.format(category=kind, max_step_words=max_step_words, separator=SEPARATOR, prompt=prompt)


def kind_of_harm(category: str, rules: str = "") -> str:
    """Name a category in words, and the rules that hold for it.

    Args:
        category: harm category.
        rules: text of the safety policy for it; empty for none.
    """
    named = category.replace("_", " ")
    return f"{named}\nThe rules for this kind of request:\n{rules}" if rules else named


def render(steps: Sequence[str], answer: str) -> str:
    r"""Return `step\nstep\n####\nanswer`, the one form in which demonstrations are stored and learned.

    Args:
        steps: at least one non-empty step; numbering is removed, runs of white space become one blank.
        answer: the text after the separator.

    Returns:
        A text from which `parse` returns the same steps and answer.

    Raises:
        DataError: no step, an empty step or answer, or a separator line inside a part.
    """
    lines, answer = [_plain(step) for step in steps], _unix(answer).strip()
    if not lines or not all(lines):
        raise DataError(f"a demonstration needs at least one step and no empty one; given {list(steps)!r}")
    if not answer:
        raise DataError("a demonstration needs an answer after the separator; the answer given is empty")
    for part in (*lines, answer):
        if _BARE.search(part) or _INLINE.search(part):
            raise DataError(
                f"a step or answer may not hold a line that starts with {SEPARATOR!r}, which separates them; "
                f"given {part!r}"
            )
    return "\n".join([*lines, SEPARATOR, answer])


def parse(text: str) -> Demonstration:
    """Split a text into draft steps and answer; numbering such as `1. `, `- ` or `Step 2: ` is removed.

    Args:
        text: what a demonstrator wrote; the thoughts of a reasoning model before it are left out.

    Returns:
        Its steps and answer.

    Raises:
        FormatError: there is no separator or no step (`bad_format`), or nothing after the separator (`empty_answer`).
    """
    text = cut_thoughts(text)
    parts = _split(text)
    if parts is None:
        raise FormatError("bad_format", f"no line {SEPARATOR!r} between the draft and the answer in {_shown(text)}")
    draft, answer = parts
    steps = tuple(filter(None, (_plain(line) for line in draft.split("\n") if not _BARE.match(line))))
    if not steps:
        raise FormatError("bad_format", f"no draft step before {SEPARATOR!r} in {_shown(text)}")
    if not answer:
        raise FormatError("empty_answer", f"nothing after {SEPARATOR!r} in {_shown(text)}")
    return Demonstration(steps, answer)


def cut_draft(text: str) -> str:
    """Return the answer: everything after the thoughts and the last `####` line, stripped.

    Without either this is the complete text; a thought that never ends leaves an empty answer.
    A model may put the answer on the separator's own line (`#### I can't ...`). That counts as a separator only when
    the text above it looks like a draft, because `#### Resources` below a paragraph is a Markdown heading.
    """
    text = cut_thoughts(text)
    parts = _split(text)
    return text.strip() if parts is None else parts[1]


def _split(text: str) -> tuple[str, str] | None:
    """Return draft and stripped answer, or None when there is no separator."""
    text = _unix(text)
    bare = list(_BARE.finditer(text))
    if bare:
        return text[: bare[-1].start()], text[bare[-1].end() :].strip()
    inline = list(_INLINE.finditer(text))
    if len(inline) == 1 and _is_draft(text[: inline[0].start()]):
        return text[: inline[0].start()], text[inline[0].end() :].strip()
    return None


def _is_draft(text: str) -> bool:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return bool(lines) and all(
        len(line.split()) <= _LONGEST_DRAFT_LINE and not line.endswith((".", "!", "?", ":")) for line in lines
    )


def _plain(step: str) -> str:
    return " ".join(_NUMBERING.sub("", step).split())


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
