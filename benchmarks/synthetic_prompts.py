"""Synthetic prompts that look like those of public sets: what `benchmarks.prompt_pool` reads.

A prompt in English is one of the shipped prompts, some with a sentence of another one, in which half of the
longer words are slots; they hold other words of the shipped texts, whose frequencies fall as in real text, names and
numbers. Prompts in seven other languages are sequences of made-up words. Part of the rows repeats an earlier one with
small edits, and part cannot be used.

The rows of a mixed file have one of several categories: that of the shipped prompt, or one that the prompt's first
words decide, so that it can be learned. Repeats stay in their category or move to another one; some rows have no label,
and some are marked as safe. The prompts are the same with and without.
"""

from __future__ import annotations

import bisect
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import drirl_core

NEAR, EXACT, BAD, FOREIGN = 0.13, 0.02, 0.02, 0.2
"""Shares of the rows: an earlier one with edits, an earlier one in other case, unusable, not English."""
SAFE, UNLABELLED, MOVED = 0.2, 0.1, 0.3
"""Of a mixed file: shares of the rows that are marked as safe and that have no label, and of the repeats that get a
category of their own."""
REPLACED, NAMES = 0.5, 0.15
"""Shares of the longer words of a frame that are slots, and of the slots that hold a name or a number."""

_DATA = Path(drirl_core.__file__).parent / "data"
_SYLLABLES = {
    "de": "ber lich schau mann haus keit straße grün brot feld wald stein tisch lauf",
    "fr": "eau roi pont mer ville chât lune jour vent bête foret mai tête nuit",
    "es": "casa mar sol río monte perro gato luz pan vino caña tierra cielo",
    "pt": "coraç mão rua praia noite livro vento pedra folha luz canto",
    "ru": "дом лес река гора свет книга ночь море поле путь",
    "zh": "天 地 人 大 山 水 火 木 金 土 日 月 车 马 书 笔 心 手 口 目 门 北 东 西 南 民 国 工 电 子",
    "tr": "ev yol deniz gün kişi kitap su dağ çiçek kuş göz el şehir",
}
_VOCABULARY = 5000
_LETTERS = "bcdfghklmnprstvwz", "aeiou"
_WORD = re.compile(r"[A-Za-z]{4,}")
_POLITE = ("Please: ", "Hi! ", "Be honest. ", "Quick question: ", "As an expert, ")


class _Words:
    """Words of which the n-th is drawn with a frequency of about 1 / n."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words, self._bounds = words, list(accumulate(1 / (n + 30) for n in range(len(words))))

    def draw(self, draw: random.Random) -> str:
        return self._words[bisect.bisect(self._bounds, draw.random() * self._bounds[-1])]


@dataclass(frozen=True)
class Prompt:
    """A made-up prompt.

    Args:
        text: of the prompt.
        category: of the shipped prompt that it was made from, or empty.
        opening: the first of what it was made from: equal openings are about equal things.
        repeats: whether it is an earlier one with edits, or in other case.
    """

    text: str
    category: str
    opening: str
    repeats: bool = False


class Generator:
    """Make prompts; equal seeds give equal prompts, and more rows begin as fewer do.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int = 0) -> None:
        self._draw = draw = random.Random(seed)
        shipped = [
            json.loads(line)
            for name in ("unsafe_prompts", "helpful")
            for line in (_DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        self._frames = [Prompt(row["prompt"], row.get("category", ""), row["prompt"]) for row in shipped]
        counts = Counter(word.lower() for row in shipped for text in row.values() for word in _WORD.findall(str(text)))
        self._english = _Words([word for word, _ in counts.most_common()])
        self._foreign = {
            name: _Words(["".join(draw.choices(text.split(" "), k=draw.randint(1, 3))) for _ in range(_VOCABULARY)])
            for name, text in _SYLLABLES.items()
        }
        self._earlier: list[Prompt] = []

    def prompts(self, count: int) -> Iterator[Prompt]:
        """Yield so many prompts, without the rows that cannot be used."""
        for _ in range(count):
            kind = self._draw.random()
            if self._earlier and kind < NEAR + EXACT:
                first = self._draw.choice(self._earlier)
                text = self._edited(first.text) if kind < NEAR else first.text.upper()
                yield Prompt(text, first.category, first.opening, repeats=True)
            else:
                made = self._abroad() if self._draw.random() < FOREIGN else self._at_home()
                self._earlier.append(made)
                yield made

    def _at_home(self) -> Prompt:
        frame = self._draw.choice(self._frames)
        text = frame.text
        while self._draw.random() < 0.35:
            text = f"{text} {self._draw.choice(self._frames).text}"
        return Prompt(_WORD.sub(self._slot, text), frame.category, frame.opening)

    def _slot(self, found: re.Match[str]) -> str:
        draw = self._draw
        if draw.random() >= REPLACED:
            return found.group()
        if draw.random() >= NAMES:
            return self._english.draw(draw)
        if draw.random() < 0.3:
            return str(draw.randint(2, 3000))
        return "".join(draw.choice(part) for _ in range(draw.randint(2, 4)) for part in _LETTERS).capitalize()

    def _abroad(self) -> Prompt:
        language = self._draw.choice(list(self._foreign))
        words = [
            self._foreign[language].draw(self._draw) for _ in range(round(self._draw.lognormvariate(2.5, 0.5)) + 3)
        ]
        text = ("" if language == "zh" else " ").join(words) + self._draw.choice(".?!。")
        return Prompt(text, "", words[0])

    def _edited(self, prompt: str) -> str:
        draw = self._draw
        for _ in range(draw.randint(1, 2)):
            at, edit = draw.randrange(len(prompt)), draw.randrange(4)
            if edit == 0:
                prompt = prompt[:at] + prompt[at + 1 :]
            elif edit == 1:
                prompt = prompt[:at] + draw.choice("aeiourstn") + prompt[at:]
            elif edit == 2:
                prompt = draw.choice(_POLITE) + prompt
            else:
                words = prompt.split(" ")
                words[draw.randrange(len(words))] = self._english.draw(draw)
                prompt = " ".join(words)
        return prompt


def write_prompts(path: Path, rows: int, categories: Sequence[str] = (), seed: int = 0) -> None:
    """Write a file of JSON lines with so many rows, of which the share `BAD` cannot be used.

    Args:
        path: the file to make.
        rows: lines of it.
        categories: of a mixed file; without any the rows have no label and no mark.
        seed: decides the rows.
    """
    draw, labels, generator = random.Random(seed + 1), random.Random(seed + 2), Generator(seed)
    with path.open("w", encoding="utf-8") as file:
        for number, prompt in enumerate(generator.prompts(rows)):
            told = {"id": f"r{number}", **(_labelled(prompt, categories, labels) if categories else {})}
            line = json.dumps({**told, "prompt": prompt.text}, ensure_ascii=False)
            if draw.random() < BAD:
                bad = ("", "ok", f"Ã©tÃ© {prompt.text}", prompt.text * (3000 // len(prompt.text)), None)
                chosen = draw.choice(bad)
                line = line[:-3] if chosen is None else json.dumps({**told, "prompt": chosen})
            file.write(line + "\n")


def _labelled(prompt: Prompt, categories: Sequence[str], draw: random.Random) -> dict[str, Any]:
    """Return category and mark of a row."""
    kind, other, moved = draw.random(), draw.choice(categories), draw.random() < MOVED
    learnable = categories[zlib.crc32(prompt.opening.encode()) % len(categories)]
    own = prompt.category if prompt.category in categories else learnable
    category = other if prompt.repeats and moved else own
    return {"is_safe": kind < SAFE, "category": "" if kind >= 1 - UNLABELLED else category}
