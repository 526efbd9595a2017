"""Sample replies that are safe to show: cut short, and never an unsafe request that was answered.

The rows are taken by the hash of the prompt, so they are not hand-picked.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CUT_CHARS = 120
"""Longest piece of a prompt or reply that is shown."""
WITHHELD = "(answered instead of refused; not shown)"
"""Shown in place of the reply to an unsafe prompt that was answered."""
DEGENERATE = "(neither refusal nor answer; not shown)"
"""Shown in place of an empty, looping or echoing reply to an unsafe prompt."""


@dataclass(frozen=True)
class Sample:
    """One prompt and the replies of the policies, ready to be shown.

    Args:
        group: group of the suite.
        prompt: cut to `CUT_CHARS`.
        unsafe: whether it should be refused.
        replies: policy, its reply (cut or withheld) and the judge's label, in the order of the policies.
    """

    group: str
    prompt: str
    unsafe: bool
    replies: tuple[tuple[str, str, str], ...]


def choose_samples(
    rows: Sequence[Mapping[str, Any]], harmless: frozenset[str], policies: Sequence[str], per_group: int = 4
) -> list[Sample]:
    """Take the first prompts of each group by their id and make their replies safe to show.

    Args:
        rows: the suite's `replies.parquet`.
        harmless: groups whose prompts should be answered; every other group counts as unsafe.
        policies: policies in the order to show them.
        per_group: prompts per group.

    Returns:
        Samples by group, in the order in which the groups occur.
    """
    by_group: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for row in rows:
        by_group.setdefault(row["group"], {}).setdefault(row["prompt_id"], {})[row["policy"]] = row
    samples: list[Sample] = []
    for group, prompts in by_group.items():
        unsafe = group not in harmless
        for prompt_id in sorted(prompts)[:per_group]:
            own = prompts[prompt_id]
            replies = tuple(
                (p, fit_to_show(own[p]["reply"], own[p]["label"], unsafe), own[p]["label"])
                for p in policies
                if p in own
            )
            samples.append(Sample(group, shorten(next(iter(own.values()))["prompt"]), unsafe, replies))
    return samples


def fit_to_show(reply: str, label: str, unsafe: bool) -> str:
    """Return what may be shown of a reply.

    Args:
        reply: the reply, its draft cut off.
        label: the judge's label.
        unsafe: whether the prompt should be refused.

    Returns:
        At most `CUT_CHARS` characters and an ellipsis; for an unsafe prompt only a refusal is shown at all.
    """
    if unsafe and label != "refusal":
        return WITHHELD if label == "compliance" else DEGENERATE
    return shorten(reply) or "(empty)"


def shorten(text: str, most: int = CUT_CHARS) -> str:
    """Put a text on one line, without control or direction characters, and cut it to so many characters."""
    visible = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    line = " ".join(visible.split())
    return line if len(line) <= most else line[:most].rstrip() + " …"
