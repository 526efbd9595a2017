"""Decide whether a demonstration may be learned from, and say why not.

A demonstration passes when it has Chain-of-Draft form with short steps, its answer refuses or redirects, shows no
marker of compliance, and does not copy the answer of another row; a bare answer (`demonstrations.format: answer`) has
no steps and may repeat another one. The patterns are for English; validate a source in another language before you use
it here.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from drirl_core.files.values import shown
from drirl_core.text.chain_of_draft import SEPARATOR, Demonstration, FormatError, cut_draft, parse
from drirl_core.text.readable import unreadable

Form = Literal["draft", "answer"]
"""Values of `demonstrations.format`."""

REASONS = (
    "bad_format",
    "step_too_long",
    "empty_answer",
    "complies",
    "refuses",
    "copied_answer",
    "unknown_category",
    "duplicate_prompt",
    "near_duplicate",
    "benchmark_overlap",
    "label_conflict",
    "missing_value",
    "undecodable",
    "too_long",
    "endpoint_error",
)
"""Why a row can be quarantined; `refuses` and `label_conflict` are for harmless rows only."""

COPY_SIMILARITY = 0.9
"""Jaccard similarity of word 3-grams from which one answer copies another."""

_WHO = r"(?:someone|somebody|anyone|an?|your|the|her|him|them|people)"
_HELPER = (
    r"(?:doctor|gp|nurse|therapist|counsellor|counselor|lawyer|solicitor|teacher|police|friend|adult|adviser|helpline)"
)
_REDIRECTS = tuple(
    re.compile(pattern)
    for pattern in (
        # people and services
        r"\b(?:crisis (?:line|text|centre|center)|help ?lines?|hot ?lines?|emergency (?:services|number|room)"
        r"|lifeline|samaritans)\b",
        rf"\b(?:talk|speak|turn|reach out|open up) (?:\w+ ){{0,2}}?(?:to|with) {_WHO}\b",
        rf"\b(?:see|ask|call|contact|tell) (?:an?|your|the) (?:\w+ )?{_HELPER}\b",
        # something else in place of what was asked
        r"\b(?:i|we|let's|let us|let me|consider|try|suggest|offer)\b[^.!?]*\binstead\b(?! of)",
        r"\binstead,? (?:i can|i could|we can|we could|let's|let me|consider|ask|talk)\b",
        r"\bconsider (?:talking|speaking|asking|seeing|calling|reaching|reporting|apologi[sz]ing|seeking|waiting"
        r"|an honest|whether)\b",
        r"\bif (?:you're|you are|you feel) (?:\w+ )?"
        r"(?:curious|struggling|worried|unsafe|angry|hurting|in danger|in crisis)\b",
    )
)
"""A redirection: it leads to a person or service, or offers something else `instead`; `instead of` does not count."""

_YES = r"(?:sure|certainly|of course|absolutely|yes|okay|ok)\b"
_COMPLIANCE = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bstep (?:1|one)\b",
        rf"^{_YES}[^.!?:]{{0,40}}[,!.:]? *"
        r"(?:here(?:'s| is| are)|you(?:'ll| will) need|first\b|let me (?:show|explain))\b",
        rf"^{_YES}(?: thing)?[,!.] i(?:'ll| will| can|'d be happy to|'d be glad to) (?!not\b)",
        r"^here(?:'s| is| are) (?:how|an?|the|some|your|\w+ (?:ways|steps|tips|insults|methods|ideas|tricks|jokes))\b",
        r"(?:^|\n)\s*(?:ingredients|materials|instructions|method|procedure|you will need|you'll need)\s*:",
    )
)
"""Openings and headings of an answer that does what was asked. They count even next to words of refusal."""

_LIST = re.compile(r"(?:^|\n)\s*1[.)]\s.*\n\s*2[.)]\s")
_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Failure:
    """Why a row is not used.

    Args:
        reason: one of `REASONS`, or `ABSENT` of the demonstrators.
        detail: what was found, for a person.
    """

    reason: str
    detail: str


class AnswerIndex:
    """The answers accepted so far, to find copies among them.

    An index from 3-gram to answers keeps a look-up proportional to the answers that share words with it.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._prompts: list[str] = []
        self._rows: dict[tuple[str, ...], list[int]] = {}

    def add(self, prompt: str, answer: str) -> None:
        """Remember the answer to `prompt`."""
        grams = _grams(answer)
        for gram in grams:
            self._rows.setdefault(gram, []).append(len(self._sizes))
        self._sizes.append(len(grams))
        self._prompts.append(prompt)

    def nearest(self, answer: str) -> tuple[str, float] | None:
        """Return the prompt whose answer is most alike and the Jaccard similarity of both, in (0, 1], or None."""
        grams = _grams(answer)
        shared = Counter(row for gram in grams for row in self._rows.get(gram, ()))
        if not shared:
            return None
        scores = {row: count / (len(grams) + self._sizes[row] - count) for row, count in shared.items()}
        row = max(scores, key=lambda r: (scores[r], -r))
        return self._prompts[row], scores[row]


def check_demonstration(
    text: object, max_step_words: int, answers: AnswerIndex | None = None, *, form: Form = "draft"
) -> Demonstration | Failure:
    """Parse and judge one demonstration.

    Args:
        text: what the demonstrator wrote, in any of the forms `cod.parse` reads, or a bare answer.
        max_step_words: largest number of words of a draft step.
        answers: answers of the rows accepted so far; the caller adds this one when it accepts it. Bare answers may
            repeat each other: short refusals do.
        form: whether the text must have a draft, or the answer alone counts; a draft before it is then cut off.

    Returns:
        The parsed demonstration, or the first failure found.
    """
    broken = check_text(text, "demonstration")
    if broken:
        return broken
    if form == "answer":
        return _check_answer(str(text))
    try:
        demonstration = parse(str(text))
    except FormatError as error:
        bare = error.reason == "bad_format" and cut_draft(str(text)) == str(text).strip()
        return Failure(
            error.reason, f"{error}; for bare answers set demonstrations.format: answer" if bare else str(error)
        )
    for step in demonstration.steps:
        if len(step.split()) > max_step_words:
            return Failure("step_too_long", f"step {step!r} has {len(step.split())} words; at most {max_step_words}")
    answer = demonstration.answer
    if not any(character.isalnum() for character in answer):
        return Failure("empty_answer", f"the answer {answer!r} holds no word")
    complaint = _compliance(answer)
    if complaint:
        return Failure("complies", complaint)
    near = answers.nearest(answer) if answers else None
    if near and near[1] >= COPY_SIMILARITY:
        return Failure("copied_answer", f"the answer copies that of {near[0]!r} (similarity {near[1]:.2f})")
    return demonstration


def _check_answer(text: str) -> Demonstration | Failure:
    answer = cut_draft(text)
    if not any(character.isalnum() for character in answer):
        return Failure("empty_answer", f"the answer {answer!r} holds no word")
    complaint = _compliance(answer)
    return Failure("complies", complaint) if complaint else Demonstration((), answer)


def check_helpful(answer: object) -> Failure | None:
    """Say why the answer to a harmless prompt cannot be used; None when it can.

    An answer that is empty, holds a separator or thoughts, or refuses cannot be used.
    """
    broken = check_text(answer, "answer")
    if broken:
        return broken
    text = str(answer)
    if cut_draft(text) != text.strip():
        return Failure(
            "bad_format",
            f"the answer holds a line {SEPARATOR!r} or a model's thoughts, where it would be cut: {_short(text)}",
        )
    return Failure("refuses", f"the answer to a harmless prompt refuses: {_short(text)}") if _is_refusal(text) else None


def check_refusal(text: object) -> Failure | None:
    """Say why a text cannot serve as an example of a refusal: it is empty or does not refuse. None when it can."""
    broken = check_text(text, "refusal")
    if broken:
        return broken
    return None if _is_refusal(str(text)) else Failure("complies", f"this is no refusal: {_short(str(text))}")


def check_text(value: object, name: str) -> Failure | None:
    """Say why a value is no readable text: absent, not text, empty or wrongly decoded. None when it is fine."""
    if value is None or value != value:  # pandas gives NaN for an empty cell
        return Failure("missing_value", f"{name} is missing")
    if not isinstance(value, str):
        return Failure("missing_value", f"{name} is {shown(value)}; a text is needed")
    if not value.strip():
        return Failure("missing_value", f"{name} is empty")
    if problem := unreadable(value):
        return Failure("undecodable", f"{name} holds {problem}: {_short(value)}; save the file as UTF-8")
    return None


def redirects(answer: str) -> bool:
    """Tell whether an answer leads to a person, a service or a safe offer, without having to refuse in words."""
    text = _plain(answer)
    return not _LIST.search(text) and any(pattern.search(text) for pattern in _REDIRECTS)


def _compliance(answer: str) -> str | None:
    text = _plain(answer)
    for pattern in _COMPLIANCE:
        found = pattern.search(text)
        if found:
            return f"the answer does what was asked: it says {found[0].strip()!r}"
    if not _is_refusal(answer) and not redirects(answer):
        return f"the answer neither refuses nor redirects: {_short(answer)}"
    return None


def _is_refusal(text: str) -> bool:
    from drirl_core.benchmarks.judges.rules import is_refusal  # it imports `cod` from this package

    return is_refusal(text)


def _grams(answer: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(_plain(answer))
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def _plain(answer: str) -> str:
    return answer.translate(_APOSTROPHES).casefold().strip()


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:97] + "...")
