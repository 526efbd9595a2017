"""Rows of the files that `rewards.labels` names: labelled completions and preference pairs, read strictly.

A row that cannot be read is an error with its place: people worked on these files, and a row that fails silently is
work lost. Rows whose label is empty are not labelled yet and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.errors import DataError, nearest
from drirl_core.files.chat import Role, text_of
from drirl_core.files.reading import read_strictly
from drirl_core.files.records import Record, column_names
from drirl_core.files.values import UnreadableError, is_absent, label, shown
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.quality import has_words
from drirl_core.text.readable import unreadable

RIGHT, WRONG = LABELS = ("right", "wrong")
LABELLED, PAIRS = ("prompt", "completion", "label"), ("prompt", "chosen", "rejected")
"""Columns of the two kinds of files."""
_LOST = "\ufffd"


@dataclass(frozen=True)
class LabelledRow:
    """One labelled completion, or the two completions of a preference pair.

    Args:
        source: name of its file as a source.
        place: file and row, for a person.
        prompt: the user message.
        category: as the row names it; empty where it does not.
        right: the right or chosen completion without a draft; empty where there is none.
        wrong: the wrong or rejected one; empty where there is none.
    """

    source: str
    place: str
    prompt: str
    category: str
    right: str
    wrong: str

    @property
    def pair(self) -> bool:
        """Whether it is a preference pair."""
        return bool(self.right and self.wrong)


def read_labels(files: Mapping[str, Path], categories: Sequence[str]) -> list[LabelledRow]:
    """Read all files of labels.

    Args:
        files: file by the name of its source.
        categories: the categories that a row may name, `helpful` among them.

    Returns:
        The labelled rows in the order of the files.

    Raises:
        DataError: a file cannot be read, lacks a column, has no labelled row, or a value of a row means nothing.
    """
    return [row for name, path in files.items() for row in _read_file(name, path, categories)]


def _read_file(name: str, path: Path, categories: Sequence[str]) -> list[LabelledRow]:
    records = read_strictly(path)
    found = column_names(records)
    kinds = [kind for kind in (LABELLED, PAIRS) if set(kind) <= set(found)]
    if len(kinds) != 1:
        has = "both kinds of columns" if kinds else f"the columns {', '.join(found) or 'none'}"
        raise DataError(
            f"{path} has {has}; a file of rewards.labels has either {', '.join(LABELLED)} or {', '.join(PAIRS)}, and a "
            "column category if you like"
        )
    read = _pair if kinds[0] == PAIRS else _labelled
    rows = [row for record in records if (row := read(record, name, path, categories)) is not None]
    if not rows:
        raise DataError(
            f"{path}: none of its {len(records)} rows has a label; write {RIGHT} or {WRONG} into the column label, or "
            "take the file out of rewards.labels"
        )
    return rows


def _labelled(record: Record, name: str, path: Path, categories: Sequence[str]) -> LabelledRow | None:
    place = f"{path.name}, {record.place}"
    said = _label(record.values.get("label"), f"{place}: label").casefold()
    if not said:
        return None
    if said not in LABELS:
        raise DataError(f"{path}, {record.place}: label is {said!r}; write {RIGHT} or {WRONG}, or leave it empty")
    completion = _answer(record, "completion", place)
    sides = (completion, "") if said == RIGHT else ("", completion)
    return LabelledRow(
        name, place, _text(record, "prompt", "user", place), _category(record, place, categories), *sides
    )


def _pair(record: Record, name: str, path: Path, categories: Sequence[str]) -> LabelledRow:
    place = f"{path.name}, {record.place}"
    sides = _answer(record, "chosen", place), _answer(record, "rejected", place)
    return LabelledRow(
        name, place, _text(record, "prompt", "user", place), _category(record, place, categories), *sides
    )


def _category(record: Record, place: str, categories: Sequence[str]) -> str:
    named = _label(record.values.get("category"), f"{place}: category")
    if named and named not in categories:
        raise DataError(
            f"{place}: the category {named!r} is not in the taxonomy; {nearest(named, categories)}. Leave it empty to "
            "have it found"
        )
    return named


def _answer(record: Record, column: str, place: str) -> str:
    answer = cut_draft(_text(record, column, "assistant", place))
    if not has_words(answer):
        raise DataError(f"{place}: {column} has no words after its draft; its reward is set by rule, remove the row")
    return answer


def _text(record: Record, column: str, role: Role, place: str) -> str:
    """Return the text of a column, which may hold a chat."""
    given: Any = record.values.get(column)
    try:
        text = text_of(given, role)
    except UnreadableError as error:
        raise DataError(f"{place}: {column} is {error}; give a text") from error
    if is_absent(text):
        raise DataError(f"{place}: {column} is empty; fill it in, or remove the row")
    if not isinstance(text, str):
        raise DataError(f"{place}: {column} is {shown(text)}; give a text")
    # A sampled completion may end within a character; the mark of it is what the policy wrote.
    if problem := unreadable(text.replace(_LOST, "") if role == "assistant" else text):
        raise DataError(f"{place}: {column} holds {problem}; write it again as UTF-8")
    return text


def _label(value: object, what: str) -> str:
    try:
        return label(value)
    except UnreadableError as error:
        raise DataError(f"{what} is {error}") from error
