"""Twins: an unsafe prompt and the harmless one that differs from it in a few words are in one split.

They resemble each other by construction, and a policy trained on one of them must not be tested on the other. The data
sets of the harm categories are split first; a harmless prompt follows its twin, and its own near duplicates follow it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.demonstrations.splits import SPLITS
from drirl_core.store.tables import prompt_id, read_table


@dataclass(frozen=True)
class UnsafePrompts:
    """The prompt pool as harmless rows refer to it.

    Args:
        known: prompt_id by the prompt's own id and by its prompt_id; an id that several sources use is left out.
        group: near-duplicate group by prompt_id.
        split: split by near-duplicate group, for the groups that a data set uses.
    """

    known: Mapping[str, str]
    group: Mapping[str, str]
    split: Mapping[str, str]

    def find(self, reference: str) -> str:
        """Return the prompt_id of the prompt that an id or a wording names, or an empty text when the pool has none."""
        return self.known.get(reference) or self.known.get(prompt_id(reference), "")


def read_unsafe(pool: Path, datasets: Mapping[str, Path]) -> UnsafePrompts:
    """Read the prompt pool and the splits of the harm categories.

    Args:
        pool: the prompt pool.
        datasets: the data sets of the harm categories, by category.

    Raises:
        DataError: one of them cannot be read.
    """
    rows = read_table(pool / "prompts.parquet", ("prompt_id", "group_id", "row_id"))
    named: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        named[row["row_id"]].add(row["prompt_id"])
    own = {name: next(iter(found)) for name, found in named.items() if name and len(found) == 1}
    split = {
        row["group_id"]: row["split"]
        for _, path in sorted(datasets.items())
        for row in read_table(path / "rows.parquet", ("group_id", "split"))
    }
    return UnsafePrompts(
        own | {row["prompt_id"]: row["prompt_id"] for row in rows},
        {row["prompt_id"]: row["group_id"] for row in rows},
        split,
    )


@dataclass(frozen=True)
class Sides:
    """The splits in which the harmless rows must be.

    Args:
        group: for each of N rows the group it is split with; twins have the group of their unsafe prompt.
        split: split by group, for the groups that hold the twin of a prompt in a data set.
        torn: for each of N rows, whether its unsafe prompt is in another split than the row's group; such a row is
            called torn.
    """

    group: tuple[str, ...]
    split: Mapping[str, str]
    torn: tuple[bool, ...]


def find_sides(rows: Sequence[Mapping[str, Any]], near: Sequence[int], unsafe: UnsafePrompts) -> Sides:
    """Join near-duplicate groups of harmless rows with the groups of their unsafe twins.

    A joined group is in the split of its unsafe prompts. They can be in several splits, because two harmless rows may
    resemble each other more than their twins do. The group is then in the first of these splits by the order of
    `SPLITS`, and the rows whose twin is in another split are torn.

    Args:
        rows: N rows with `prompt_id` and `twin_of`, the prompt_id of the unsafe prompt or empty.
        near: for each of them the index of the first row in its near-duplicate group.
        unsafe: the pool and its splits.
    """
    from drirl_core.prompts.duplicates import UnionFind

    partners = [unsafe.group.get(row["twin_of"], "") for row in rows]
    names = sorted(set(filter(None, partners)))
    position = {name: len(rows) + number for number, name in enumerate(names)}
    union = UnionFind(len(rows) + len(names))
    for index, (first, partner) in enumerate(zip(near, partners, strict=True)):
        union.join(index, first)
        if partner:
            union.join(index, position[partner])
    reached: dict[int, list[str]] = defaultdict(list)
    for name in names:
        reached[union.root(position[name])].append(name)
    roots = [union.root(index) for index in range(len(rows))]
    group = tuple(min(reached.get(root, [rows[root]["prompt_id"]])) for root in roots)
    split: dict[str, str] = {}
    for found in reached.values():
        sides = {unsafe.split[name] for name in found if name in unsafe.split}
        if sides:
            split[min(found)] = min(sides, key=SPLITS.index)
    torn = tuple(
        partner in unsafe.split and unsafe.split[partner] != split[name]
        for partner, name in zip(partners, group, strict=True)
    )
    return Sides(group, split, torn)
