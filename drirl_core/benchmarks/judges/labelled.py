"""Sets of labelled replies that judges are measured on: the shipped one, and files of three layouts.

=============  =====================================================================================================
layout         columns
=============  =====================================================================================================
own            prompt, reply, and `refused` (true or false) or `label` (refusal or compliance); if there are any, also
               `kind`, `certain` (true or false), `weight`, and `policy` or `model`
XSTest         prompt, completion, final_label: 1_full_compliance, 2_full_refusal or 3_partial_refusal; model
rbr_gold       prompt and completion in chat format, propositions: the kind that they agree on
=============  =====================================================================================================

The columns tell the layout. A reply that declines what was asked, fully or in part, counts as a refusal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.errors import DataError
from drirl_core.files.reading import read_strictly

HAND_READ = "hand_read"
"""Name of the shipped set."""
HAND_READ_FILE = Path(__file__).parents[2] / "data" / "reply_labels" / "labels.jsonl"
REPLY_KINDS = ("hard_refusal", "safe_completion", "partial_refusal", "compliance", "unusable")
"""Kinds of the shipped set, which own files may use too; `unusable` is empty text, an echo, a loop or gibberish."""

_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_LABELS = {"refusal": True, "compliance": False}
_XSTEST = {"1_full_compliance": "compliance", "2_full_refusal": "hard_refusal", "3_partial_refusal": "partial_refusal"}
_NEEDED = (
    "prompt, reply and refused (true or false) or label (refusal or compliance); or those of XSTest's annotated "
    "completions (prompt, completion, final_label); or those of rbr_gold (prompt, completion, propositions)"
)


@dataclass(frozen=True)
class LabelledReply:
    """A reply and what its label says.

    Args:
        prompt: what was asked.
        reply: the reply.
        refused: whether it declines, fully or in part.
        kind: one of `REPLY_KINDS`, empty where the file does not say.
        certain: False where the annotator doubted the label.
        weight: how many replies of its population the row stands for, above 0.
        source: who replied, empty where the file does not say.
    """

    prompt: str
    reply: str
    refused: bool
    kind: str = ""
    certain: bool = True
    weight: float = 1.0
    source: str = ""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled replies to measure judges on.

    Args:
        name: the shipped set's, or of the file and its directory.
        rows: the replies, at least one.
        left_out: rows of the file whose label is of no one kind.
    """

    name: str
    rows: tuple[LabelledReply, ...]
    left_out: int = 0

    @property
    def weighted(self) -> bool:
        """Whether rows stand for different numbers of replies."""
        return len({row.weight for row in self.rows}) > 1


def read_labelled_set(where: str, *, held_out: bool = False) -> LabelledSet:
    """Read a set of labelled replies.

    Args:
        where: `hand_read` for the shipped set, or a file (jsonl, json, csv, tsv, parquet).
        held_out: keep only prompts whose SHA-256 is odd. The wording of the rules was completed on even ones of
            XSTest, and the embedded judge is fitted on even ones.

    Raises:
        DataError: the file cannot be read, has other columns, holds an unknown label, or no row is left.
    """
    path = HAND_READ_FILE if where == HAND_READ else Path(where)
    rows, left_out = [], 0
    for record in read_strictly(path):
        try:
            row = _layout(record.values)(record.values)
        except ValueError as error:
            raise DataError(f"{path}, {record.place}: {error}") from error
        if row is None:
            left_out += 1
        elif not held_out or is_held_out(row.prompt):
            rows.append(row)
    if not rows:
        raise DataError(f"{path} has no labelled reply that judges could be measured on; give a file with at least one")
    name = where if where == HAND_READ else f"{path.resolve().parent.name}/{path.name}"  # many are called test.jsonl
    return LabelledSet(f"{name}, prompts whose SHA-256 is odd" if held_out else name, tuple(rows), left_out)


def is_shipped(name: str) -> bool:
    """Return whether a set of this name is the shipped one, or a part of it: a model labelled it, not people."""
    return name == HAND_READ or name.startswith(f"{HAND_READ},")


def is_held_out(prompt: str) -> bool:
    """Return whether a prompt is in the half that judges are only measured on: its SHA-256 is odd."""
    return bool(int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 2)


def kind_by_propositions(of: Mapping[str, bool]) -> str | None:
    """Return the kind that the propositions of a row of rbr_gold agree on; None where they are of several kinds.

    Args:
        of: proposition to whether it holds.
    """
    way = of["encourage_professional_help"] or of["gentle_encouragement_for_help"] or of["provides_resources"]
    if of["illogical_continuation_of_prompt"]:
        return None
    if of["inability_to_comply"]:
        return "safe_completion" if way else "hard_refusal"
    if of["disallowed_content"] or (of["fully_complies"] and not way):
        return "compliance"
    return "safe_completion" if way and not of["fully_complies"] and not of["partially_complies"] else None


def _layout(values: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], LabelledReply | None]:
    for columns, read in _LAYOUTS.items():
        if all(column in values for column in columns):
            return read
    raise ValueError(f"the columns are {', '.join(values)}; a file of labelled replies has {_NEEDED}")


def _own(values: Mapping[str, Any]) -> LabelledReply:
    refused = _among(values, "refused", _TRUTH) if "refused" in values else _among(values, "label", _LABELS)
    kind = str(values.get("kind") or "")
    if kind and kind not in REPLY_KINDS:
        raise ValueError(f"the kind {kind!r} is none of {', '.join(REPLY_KINDS)}")
    certain = values.get("certain") is None or _among(values, "certain", _TRUTH)
    texts = _text(values, "prompt"), _text(values, "reply")
    return LabelledReply(*texts, refused, kind, certain, _weight(values), _source(values))


def _xstest(values: Mapping[str, Any]) -> LabelledReply:
    kind = _among(values, "final_label", _XSTEST)
    texts = _text(values, "prompt"), _text(values, "completion")
    return LabelledReply(*texts, kind != "compliance", kind, source=_source(values))


def _rbr_gold(values: Mapping[str, Any]) -> LabelledReply | None:
    try:
        kind = kind_by_propositions(values["propositions"])
        prompt, reply = (values[name][-1]["content"] for name in ("prompt", "completion"))
    except (LookupError, TypeError) as error:
        raise ValueError(f"not a row of rbr_gold ({type(error).__name__}: {error})") from error
    return None if kind is None else LabelledReply(prompt, reply, kind != "compliance", kind)


def _among(values: Mapping[str, Any], column: str, known: Mapping[str, Any]) -> Any:
    given = values[column]
    value = str(given).strip()
    value = value.lower() if known is _TRUTH else value
    if value not in known:
        raise ValueError(f"{column} is {given!r}; one of {', '.join(known)} is needed")
    return known[value]


def _text(values: Mapping[str, Any], column: str) -> str:
    value = values[column]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{column} is {value!r}; a text is needed")
    return value or ""


def _source(values: Mapping[str, Any]) -> str:
    return str(values.get("policy") or values.get("model") or "")


def _weight(values: Mapping[str, Any]) -> float:
    given = values.get("weight")
    try:
        weight = 1.0 if given is None else float(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"weight is {given!r}; a number above 0 is needed") from error
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight is {given!r}; a number above 0 is needed")
    return weight


_LAYOUTS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any]], LabelledReply | None]] = {
    ("prompt", "reply", "refused"): _own,
    ("prompt", "reply", "label"): _own,
    ("prompt", "completion", "final_label"): _xstest,
    ("prompt", "completion", "propositions"): _rbr_gold,
}
