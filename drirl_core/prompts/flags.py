"""What a source itself says of a row: which kinds of harm it has, and whether it is safe.

Public sets mark rows with flags per kind of harm. After an export the same flags are an object of booleans, a list of
names, a list of 0 and 1, or a text of any of these. A row whose flags cannot be read is never taken for an unsafe one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.files.values import UnreadableError, is_absent, label, shown, truth

_NOT_LETTERS = re.compile(r"[\W_]+")
_TOKENS = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^\s,\[\]()]+)")
_LISTED = re.compile(r"(?:array\()?\[(.*)\](?:,\s*dtype=\S+?)?\)?", re.DOTALL)
_BETWEEN = re.compile(r"[;|\n]")
_SAFE_WORDS = frozenset({"none", "safe", "no harm", "harmless", "benign", "not harmful", "n a"})


@dataclass(frozen=True, slots=True)
class Marks:
    """What a source says of a row.

    Args:
        safe: whether it says that the row is no unsafe prompt.
        labels: the kinds of harm that it names.
        reason: why the row cannot be used (a quarantine reason), or empty.
        detail: the reason in words.
    """

    safe: bool = False
    labels: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class FlagReader:
    """Read the marks of the rows of one file.

    Args:
        flags: columns with flags per kind of harm.
        safe: columns that say whether a row is safe.
        known: keys of the labels that have a meaning here: those of the layout, and the names of the categories.
        order: the labels in the order of a list of 0 and 1; empty when it is not known.
    """

    flags: Sequence[str]
    safe: Sequence[str]
    known: Collection[str]
    order: Sequence[str] = ()

    def marks(self, values: Mapping[str, Any]) -> Marks:
        """Return what the source says of a row; without columns of either kind it says nothing."""
        said: list[bool | None] = []
        named: list[list[str] | None] = []
        for column in self.safe:
            try:
                said.append(_says_safe(values.get(column)))
            except UnreadableError as error:
                return Marks(reason="unknown_category", detail=f"column {column!r} is {error}")
        for column in self.flags:
            try:
                named.append(self._labels(values.get(column)))
            except UnreadableError as error:
                return Marks(reason="unknown_category", detail=f"column {column!r} is {error}")
        labels = tuple(dict.fromkeys(name for names in named for name in names or ()))
        if False in said:
            return Marks(labels=labels)
        if said and None not in said:
            if not labels:
                return Marks(safe=True)
            detail = f"column {self.safe[0]!r} says safe, but column {self.flags[0]!r} names {', '.join(labels)}"
            return Marks(reason="label_conflict", detail=detail)
        return self._by_flags(labels, named)

    def _by_flags(self, labels: tuple[str, ...], named: Sequence[list[str] | None]) -> Marks:
        """Decide by the flags alone, where no column says whether the row is safe."""
        if not self.flags:
            if not self.safe:
                return Marks()
            detail = f"column {self.safe[0]!r} is empty, so it is not known whether the row is safe"
            return Marks(reason="missing_value", detail=detail)
        if labels and not any(label_key(name) in self.known for name in labels):
            detail = f"column {self.flags[0]!r} names {', '.join(labels)}, which this adapter does not know"
            return Marks(reason="unknown_category", detail=detail)
        if not labels and None in named:
            column = self.flags[named.index(None)]
            return Marks(
                reason="missing_value", detail=f"column {column!r} is empty, so it is not known whether the row is safe"
            )
        return Marks(safe=not labels, labels=labels)

    def _labels(self, value: Any) -> list[str] | None:
        """Return the labels that flags name; None where there are no flags."""
        if isinstance(value, str) and value.strip():
            value = self._parsed(value.strip())
        if is_absent(value):
            return None
        pairs = _pairs(value)
        if pairs is not None:
            on = {str(name): truth(flag) for name, flag in pairs}
            return [name for name, flag in on.items() if flag] if set(on.values()) != {None} or not on else None
        if not isinstance(value, list | tuple):
            raise UnreadableError(
                f"{shown(value)}; flags are an object of booleans, a list of names, or one of 0 and 1"
            )
        if value and all(_is_truth(item) for item in value):
            return self._by_place(value)
        if not all(isinstance(item, str) for item in value):
            raise UnreadableError(f"{shown(value)}; a list of flags holds names, or 0 and 1")
        return [name for name in value if label_key(name) not in _SAFE_WORDS]

    def _by_place(self, value: Sequence[Any]) -> list[str]:
        if len(value) != len(self.order):
            need = f"{len(self.order)} are needed" if self.order else "their order is not known here"
            raise UnreadableError(
                f"a list of {len(value)} flags ({shown(list(value))}); {need}, or names of the labels"
            )
        return [name for name, flag in zip(self.order, value, strict=True) if truth(flag)]

    def _parsed(self, text: str) -> Any:
        """Return what a text holds: an object, a list, or the names that it joins."""
        if text.startswith("{"):
            for read in (json.loads, ast.literal_eval):
                try:
                    return read(text)
                except (ValueError, SyntaxError, RecursionError, MemoryError):
                    continue
            raise UnreadableError(f"{shown(text)}; it looks like an object but cannot be parsed")
        if listed := _LISTED.fullmatch(text):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                tokens = ["".join(found) for found in _TOKENS.findall(listed[1])]  # of Python or numpy
                return tokens if any(mark in listed[1] for mark in "'\"") else self._joined(tokens)
        parts = [part.strip() for part in _BETWEEN.split(text) if part.strip()]
        return [name for part in parts for name in self._joined(part.split(","))]

    def _joined(self, tokens: Sequence[str]) -> list[str]:
        """Join pieces that were cut at commas, which some labels hold, where they make a known label."""
        names, place = [], 0
        while place < len(tokens):
            ends = range(len(tokens), place, -1)
            label_end = next((end for end in ends if label_key(" ".join(tokens[place:end])) in self.known), place + 1)
            names.append(",".join(tokens[place:label_end]).strip())
            place = label_end
        return names


def label_key(text: str) -> str:
    """Return a label with case, spaces and punctuation normalised, so that spellings of one label compare equal."""
    return _NOT_LETTERS.sub(" ", text).casefold().strip()


def plain_labels(value: Any) -> list[str]:
    """Return the labels of a column that holds one of them, or a list.

    Raises:
        UnreadableError: it is an object, bytes or something else that is no label.
    """
    if isinstance(value, Mapping):
        raise UnreadableError(f"{shown(value)}; flags are read with an adapter for them, such as `beavertails`")
    items = value if isinstance(value, list | tuple) else [value]
    return [text for text in map(label, items) if text]


def _says_safe(value: Any) -> bool | None:
    if isinstance(value, str) and value.strip().casefold() in ("safe", "unsafe"):
        return value.strip().casefold() == "safe"
    return truth(value)


def _is_truth(value: Any) -> bool:
    try:
        return truth(value) is not None
    except UnreadableError:
        return False


def _pairs(value: Any) -> list[tuple[Any, Any]] | None:
    """Return label and flag of an object; parquet gives some as a list of pairs."""
    if isinstance(value, Mapping):
        return list(value.items())
    listed = isinstance(value, list) and bool(value)
    return list(value) if listed and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value) else None
