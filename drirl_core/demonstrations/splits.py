"""Splits and resampling: deterministic, and never with one near-duplicate group in two splits."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.errors import DataError, nearest

SPLITS = ("train", "validation", "test")


def hash_order(seed: int, text: str) -> str:
    """Return a sort key that orders texts by the seed, independently of the order in which they are given."""
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()


def assign_splits(
    groups: Iterable[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    *,
    train_only: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Give every near-duplicate group to one split.

    Args:
        groups: group ids; repetitions do not count.
        validation_fraction: share of groups for validation, in (0, 1).
        test_fraction: share of groups for test, in (0, 1).
        seed: decides which groups.
        train_only: groups that must not be held out, such as those that are also in another data set.

    Returns:
        Group id to `train`, `validation` or `test`; each split gets at least one group.

    Raises:
        DataError: fewer than three groups, or fewer than two outside `train_only`.
    """
    every = sorted(set(groups), key=lambda group: hash_order(seed, group))
    free = [group for group in every if group not in train_only]
    if len(every) < 3 or len(free) < 2:
        raise DataError(
            f"{len(every)} groups of near-duplicate prompts ({len(free)} free to be held out) "
            "cannot fill train, validation and test; "
            "at least 3 are needed"
        )
    validation, test = held_out_sizes(len(every), validation_fraction, test_fraction)
    while validation + test > len(free):
        validation, test = (validation - 1, test) if validation >= test else (validation, test - 1)
    held = {group: "validation" for group in free[:validation]} | {
        group: "test" for group in free[validation : validation + test]
    }
    return {group: held.get(group, "train") for group in every}


def held_out_sizes(groups: int, validation_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Return how many of at least three groups go to validation and to test: at least one each; one trains."""
    validation, test = (
        max(1, math.floor(groups * fraction + 0.5)) for fraction in (validation_fraction, test_fraction)
    )
    while validation + test > groups - 1:
        validation, test = (validation - 1, test) if validation >= test else (validation, test - 1)
    return validation, test


@dataclass(frozen=True)
class StyleFold:
    """Rows to train on without one style, and rows to measure how training generalises to it.

    Args:
        train: training rows of the other styles.
        unseen: rows of the style that is held out, from training and validation.
        seen: validation rows of the other styles, for comparison.
    """

    train: tuple[Mapping[str, Any], ...]
    unseen: tuple[Mapping[str, Any], ...]
    seen: tuple[Mapping[str, Any], ...]


def hold_out_style(rows: Iterable[Mapping[str, Any]], style: str) -> StyleFold:
    """Leave one style out of training.

    Nothing of the held-out style is trained on, so its training rows are used for measuring as well: nine times as many
    as its validation rows alone. Rows that share a near-duplicate group with one of them, as twins do, are left out of
    training. Test rows are in no part.

    Args:
        rows: rows of one or more data sets, with `style`, `split`, `origin` and `group_id`.
        style: the style to hold out; rows without a style count as one of their own, which cannot be held out.

    Raises:
        DataError: no row outside the test split has the style.
    """
    usable = [row for row in rows if row["split"] != "test"]
    unseen = tuple(row for row in usable if row["style"] == style and row["origin"] != "resampled")
    if not style or not unseen:
        known = sorted({row["style"] for row in usable if row["style"]})
        raise DataError(f"no row outside the test split has the style {style!r}; {nearest(style, known)}")
    groups = {row["group_id"] for row in unseen}
    others = [row for row in usable if row["style"] != style]
    return StyleFold(
        train=tuple(row for row in others if row["split"] == "train" and row["group_id"] not in groups),
        unseen=unseen,
        seen=tuple(row for row in others if row["split"] == "validation"),
    )


def resample(rows: Sequence[Mapping[str, Any]], n: int, seed: int) -> list[Mapping[str, Any]]:
    """Draw `n` further copies of training rows, each row once before any twice.

    Within a round rows are drawn without replacement with weights 1 / (rows of their near-duplicate group), by the keys
    u^(1/w) of Efraimidis and Spirakis, so that a large group does not grow further.

    Args:
        rows: rows with `prompt_id` and `group_id`.
        n: copies to draw.
        seed: decides which.

    Returns:
        `n` of the rows, repeated as needed; none when there is no row.
    """
    sizes = Counter(row["group_id"] for row in rows)

    def key(row: Mapping[str, Any], turn: int) -> float:
        u = (int(hash_order(seed, f"{turn}\0{row['prompt_id']}")[:13], 16) + 1) / (16**13 + 1)  # in (0, 1)
        return u ** sizes[row["group_id"]]

    drawn: list[Mapping[str, Any]] = []
    for turn in range(math.ceil(n / len(rows)) if rows else 0):
        ordered = sorted(rows, key=lambda row: (-key(row, turn), row["prompt_id"]))
        drawn.extend(ordered[: n - len(drawn)])
    return drawn
