"""Text quality: how far an answer is ordinary prose, from 0 (degenerate) to 1, measured on its words.

A frozen sentence encoder hardly sees that a refusal repeats itself, is shuffled or is cut off. A policy that is
rewarded by an encoder alone therefore learns to produce degenerate text; and an echo of the prompt is as close to the
prompt as can be. Seven *oddities* are measured on the words, each growing with the damage. What the demonstrations
themselves show of an oddity is tolerated; beyond that a *defect* grows linearly to 1. Text quality is the product of
(1 - severity * defect). Ordinary prose has text quality 1, so optimising it gains nothing: it can only be lost.

Word order is judged by a bigram model over word classes (the most frequent words are classes of their
own, other words are classed by whether they are capitalised), learned from the training texts of the pool, so that
nothing here is tied to English.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from drirl_core.errors import ArtifactError, DataError


class Kind(NamedTuple):
    """One kind of defect.

    Args:
        severity: how much of the reward a full defect takes.
        least: oddity that is always tolerated; a few clean demonstrations say little about the rare legitimate repeat.
        ramp: distance beyond the tolerance at which the defect is full.
    """

    severity: float
    least: float
    ramp: float


KINDS: Mapping[str, Kind] = {
    "repeated": Kind(1.0, 0.1, 0.25),
    "stutter": Kind(1.0, 0.08, 0.2),
    "disorder": Kind(1.0, 0.0, 0.5),
    "short": Kind(1.0, 0.2, 0.8),
    "noise": Kind(1.0, 0.06, 0.2),
    "echo": Kind(1.0, 0.3, 0.4),
    "unfinished": Kind(0.3, 0.0, 0.5),  # mild: a good answer at the length limit is still good
}
"""All kinds; `TextQuality.oddities` says what each measures."""

_TOLERATED_SHARE = 0.95
"""Share of the demonstrations without any defect of a kind."""
_ECHO_RUN = 3
"""Words in a row that must occur in the prompt to count as copied."""
_FREQUENT = 60
"""Number of words that are a class of their own."""
_PRIOR = 5.0
"""Pseudo-counts that pull a bigram's probability towards the frequency of its second class."""
_FOLDS = 5
"""Folds: to set tolerances, demonstrations are judged by a bigram model that did not see them."""

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[^\w\s]|_")
_MARKDOWN = re.compile(r"^\s*(?:[-*+]|#{1,4})\s|\*{1,2}(?=\S)|(?<=\S)\*{1,2}", re.MULTILINE)
"""Bullets, headings and emphasis are no noise."""
_ORDINARY_MARKS = set(".,;:!?'\"()-…’‘“”–—。，！？、；：「」")
_CLOSING = "\"')]}*’”」』）"
_ENDING = tuple(".!?…。！？")


def has_words(text: str) -> bool:
    """Return whether a text holds a letter or a digit; an answer without either is empty."""
    return any(character.isalnum() for character in text)


@dataclass(frozen=True)
class TextQuality:
    """Measure how far a text is ordinary prose, learned from demonstrations and completions.

    Args:
        tolerance: oddity up to which a text has no defect, by kind (keys of `KINDS`).
        usual_words: number of words below which an answer begins to count as short.
        frequent: words that are classes of their own.
        before: how often a class came first in a bigram.
        bigrams: how often two classes followed each other, by `first second`.
    """

    tolerance: Mapping[str, float]
    usual_words: float
    frequent: frozenset[str]
    before: Mapping[str, int]
    bigrams: Mapping[str, int]

    @classmethod
    def learn(cls, prompts: Sequence[str], demonstrations: Sequence[str], completions: Sequence[str]) -> TextQuality:
        """Learn word order from all texts, and tolerances from the demonstrations.

        Args:
            prompts: user message of each demonstration.
            demonstrations: answers of the demonstrations, at least one with words.
            completions: answers sampled from policies; they widen the bigram model.

        Raises:
            DataError: no demonstration has words.
        """
        pairs = [(prompt, text) for prompt, text in zip(prompts, demonstrations, strict=True) if has_words(text)]
        good = [text for _, text in pairs]
        if not good:
            raise DataError("no demonstration has an answer with words; fix the data set")
        lengths = [len(_words(_TOKEN.findall(text))) for text in good]
        usual = max(1.0, float(np.quantile(lengths, 1 - _TOLERATED_SHARE)) / 4)
        oddities: list[dict[str, float]] = []
        folds = min(_FOLDS, len(good))
        for fold in range(folds):
            others = [text for i, text in enumerate(good) if i % folds != fold or folds == 1]
            judge = cls({}, usual, *_count([*others, *completions]))
            oddities += [judge.oddities(prompt, text) for prompt, text in pairs[fold::folds]]
        tolerance = {
            name: max(kind.least, float(np.quantile([odd[name] for odd in oddities], _TOLERATED_SHARE)))
            for name, kind in KINDS.items()
        }
        return cls(tolerance, usual, *_count([*good, *completions]))

    def oddities(self, prompt: str, text: str) -> dict[str, float]:
        """Measure an answer that has words.

        Args:
            prompt: the user message.
            text: the answer.

        Returns:
            repeated: share of word bigrams that occurred earlier in it. stutter: share of words equal to one of the two
            before. disorder: minus the mean log-odds of adjacent classes against chance, in nats. short: missing share
            of the usual length. noise: share of characters that are neither letters, digits nor ordinary marks. echo:
            share of words in runs of three or more that occur in the prompt. unfinished: 1 when the last sentence does
            not end.
        """
        tokens = _TOKEN.findall(text)
        words = [word.lower() for word in _words(tokens)]
        pairs = list(pairwise(words))
        echoes = sum(word in words[max(0, i - 2) : i] for i, word in enumerate(words))
        visible = [character for character in _MARKDOWN.sub("", text) if not character.isspace()]
        strange = sum(not character.isalnum() and character not in _ORDINARY_MARKS for character in visible)
        return {
            "repeated": 1 - len(set(pairs)) / len(pairs) if pairs else 0.0,
            "stutter": echoes / len(words) if words else 0.0,
            "disorder": -self._order(tokens),
            "short": max(0.0, 1 - len(words) / self.usual_words),
            "noise": strange / len(visible) if visible else 0.0,
            "echo": _copied([word.lower() for word in _words(_TOKEN.findall(prompt))], words),
            "unfinished": float(not text.rstrip().rstrip(_CLOSING).endswith(_ENDING)),
        }

    def defects(self, prompt: str, text: str) -> dict[str, float]:
        """Return the defects of an answer that has words, each in [0, 1]."""
        odd = self.oddities(prompt, text)
        return {
            name: min(1.0, max(0.0, (odd[name] - self.tolerance[name]) / kind.ramp)) for name, kind in KINDS.items()
        }

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Return the text quality of answers.

        Args:
            prompts: B user messages.
            texts: B answers.

        Returns:
            Values in [0, 1], (B,); 0 for a text without words.
        """
        return np.array(
            [self._one(prompt, text) if has_words(text) else 0.0 for prompt, text in zip(prompts, texts, strict=True)]
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the same for equal content."""
        return {
            "tolerance": dict(sorted(self.tolerance.items())),
            "usual_words": self.usual_words,
            "frequent": sorted(self.frequent),
            "before": dict(sorted(self.before.items())),
            "bigrams": dict(sorted(self.bigrams.items())),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TextQuality:
        """Build what `to_json` described.

        Raises:
            ArtifactError: a part is missing or of another type.
        """
        try:
            tolerance = {kind: float(data["tolerance"][kind]) for kind in KINDS}
            before = {str(k): int(v) for k, v in data["before"].items()}
            bigrams = {str(k): int(v) for k, v in data["bigrams"].items()}
            return cls(tolerance, float(data["usual_words"]), frozenset(map(str, data["frequent"])), before, bigrams)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"the text quality part of a reward model is damaged ({error!r}); train the reward model again"
            ) from error

    def _one(self, prompt: str, text: str) -> float:
        return math.prod(1 - KINDS[kind].severity * defect for kind, defect in self.defects(prompt, text).items())

    def _order(self, tokens: Sequence[str]) -> float:
        """Return the mean over adjacent classes of log p(second | first) / p(second), in nats."""
        classes = _classes(tokens, self.frequent)
        total, kinds = sum(self.before.values()), len(self.before)
        sums = 0.0
        for first, second in pairwise(classes):
            prior = (self.before.get(second, 0) + 1) / (total + kinds + 1)
            seen = self.bigrams.get(f"{first} {second}", 0)
            sums += math.log((seen / prior + _PRIOR) / (self.before.get(first, 0) + _PRIOR))
        return sums / (len(classes) - 1)


def _copied(source: Sequence[str], words: Sequence[str]) -> float:
    """Return the share of words in runs of `_ECHO_RUN` words that also occur in the source."""
    known = {tuple(source[i : i + _ECHO_RUN]) for i in range(len(source) - _ECHO_RUN + 1)}
    covered = {
        i + j
        for i in range(len(words) - _ECHO_RUN + 1)
        if tuple(words[i : i + _ECHO_RUN]) in known
        for j in range(_ECHO_RUN)
    }
    return len(covered) / len(words) if words else 0.0


def _count(texts: Sequence[str]) -> tuple[frozenset[str], dict[str, int], dict[str, int]]:
    tokenised = [_TOKEN.findall(text) for text in texts if has_words(text)]
    usage = Counter(word.lower() for tokens in tokenised for word in _words(tokens))
    # Ties are broken alphabetically, so that equal texts in another order give the same classes.
    ranked = sorted((item for item in usage.items() if item[1] > 2), key=lambda item: (-item[1], item[0]))
    frequent = frozenset(word for word, _ in ranked[:_FREQUENT])
    before: Counter[str] = Counter()
    bigrams: Counter[str] = Counter()
    for tokens in tokenised:
        classes = _classes(tokens, frequent)
        before.update(classes)
        bigrams.update(f"{first} {second}" for first, second in pairwise(classes))
    return frequent, dict(before), dict(bigrams)


def _classes(tokens: Sequence[str], frequent: frozenset[str]) -> list[str]:
    return ["<start>", *(_class(token, frequent) for token in tokens), "<end>"]


def _class(token: str, frequent: frozenset[str]) -> str:
    lowered = token.lower()
    if lowered in frequent:
        return lowered
    if token[0].isdigit():
        return "<number>"
    if not token[0].isalpha():
        return token if token in _ORDINARY_MARKS else "<mark>"
    if token[0].isupper():
        return "<capital>"
    return "<word>"


def _words(tokens: Sequence[str]) -> list[str]:
    return [token for token in tokens if token[0].isalnum()]
