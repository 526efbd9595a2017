"""The prompts that GRPO trains on, step by step."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, cycle, islice
from math import floor
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import PolicyConfig
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.store.tables import read_table


def training_prompts(context: stages.Context) -> dict[str, list[dict[str, Any]]]:
    """Return the training prompts with their demonstrations, by category.

    Raises:
        DataError: a category has no training prompt.
    """
    categories = [name.removeprefix("reward_model_") for name in context.inputs if name.startswith("reward_model_")]
    prompts: dict[str, list[dict[str, Any]]] = {}
    for category in sorted(categories):
        rows = read_table(context.inputs[dataset_name(category)] / "rows.parquet")
        prompts[category] = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "category": category,
                "prompt_id": row["prompt_id"],
                "demonstration": row["answer"],
                "kind": row["kind"],
            }
            for row in rows
            if row["split"] == "train"
        ]
        if not prompts[category]:
            raise DataError(f"{dataset_name(category)} has no training rows; raise demonstrations.quota or add prompts")
    return prompts


def schedule(
    prompts: Mapping[str, Sequence[dict[str, Any]]], settings: PolicyConfig, seed: int
) -> list[dict[str, Any]]:
    """Choose the prompts of all steps, so that every step mixes the categories and has the helpful share.

    Args:
        prompts: training prompts by category; `helpful` holds the harmless ones.
        settings: steps, prompts per step and helpful share.
        seed: of the order inside a category.

    Returns:
        steps * prompts_per_step rows. Harm categories alternate; look-alikes are spread evenly.
    """
    generator = random.Random(seed)  # noqa: S311 - reproducible order, not security

    def endless(rows: Sequence[dict[str, Any]]) -> Any:
        while True:
            order = list(rows)
            generator.shuffle(order)
            yield from order

    turns = [endless(prompts[c]) for c in sorted(prompts) if c != taxonomy.HELPFUL]
    harm = (next(turn) for turn in cycle(turns))
    kinds = {kind: endless(rows) for kind, rows in _by_kind(prompts.get(taxonomy.HELPFUL, ())).items()}
    helpful = _mixed(kinds, settings.look_alike_share)
    harmless = (
        min(round(settings.prompts_per_step * settings.helpful_share), settings.prompts_per_step - 1) if kinds else 0
    )
    rows: list[dict[str, Any]] = []
    for _ in range(settings.steps):
        step = [*islice(harm, settings.prompts_per_step - harmless), *islice(helpful, harmless)]
        generator.shuffle(step)
        rows += step
    return rows


def _by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault("look_alike" if row["kind"] == "look_alike" else "general", []).append(row)
    return kinds


def _mixed(kinds: Mapping[str, Iterator[dict[str, Any]]], look_alike_share: float) -> Iterator[dict[str, Any]]:
    """Spread the look-alikes evenly among the harmless rows, in the given share if there are both kinds."""
    share = look_alike_share if len(kinds) == 2 else float("look_alike" in kinds)
    for number in count():
        is_look_alike = floor((number + 1) * share) > floor(number * share)
        yield next(kinds["look_alike" if is_look_alike else "general"])
