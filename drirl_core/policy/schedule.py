"""The prompts that GRPO trains on, step by step."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count, cycle, islice
from math import floor
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import PolicyConfig
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.models.context import too_long
from drirl_core.models.templates import chat_text
from drirl_core.policy.staging import in_stages
from drirl_core.store.tables import read_table


def dataset_rows(context: stages.Context, split: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a split of every data set among the inputs, by category in alphabetical order.

    Categories of `leave_out.categories` have none, and the harmless twins of their prompts are left out too.
    """
    return rows_of_split(context.datasets(), split, context.config.leave_out.categories)


def rows_of_split(
    datasets: Mapping[str, Path], split: str, leave_out: Collection[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a split of data sets, by category in the order given.

    Args:
        datasets: directory of the data set of each category.
        split: `train`, `validation` or `test`.
        leave_out: categories that are left out, together with the twins of their prompts, of any split.
    """
    rows = {category: read_table(folder / "rows.parquet") for category, folder in datasets.items()}
    gone = {row["prompt_id"] for category in leave_out for row in rows.pop(category)}
    return {
        category: [row for row in own if row["split"] == split and row["twin_of"] not in gone]
        for category, own in rows.items()
    }


def training_prompts(context: stages.Context) -> dict[str, list[dict[str, Any]]]:
    """Return the training prompts with their demonstrations, by category.

    Raises:
        DataError: a category has no training prompt.
    """
    prompts: dict[str, list[dict[str, Any]]] = {}
    for category, rows in dataset_rows(context, "train").items():
        prompts[category] = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "category": category,
                "prompt_id": row["prompt_id"],
                "demonstration": row["answer"],
                "kind": row["kind"],
            }
            for row in rows
        ]
        if not prompts[category]:
            raise DataError(f"{dataset_name(category)} has no training rows; raise demonstrations.quota or add prompts")
    return prompts


def with_room(
    prompts: Mapping[str, Sequence[dict[str, Any]]], tokenizer: Any, new_tokens: int, limit: int | None
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Leave out the prompts after which no completion fits into what the policy can read.

    Args:
        prompts: training prompts by category.
        tokenizer: of the policy.
        new_tokens: length limit of a completion.
        limit: tokens that the policy can read; None for no limit.

    Returns:
        The prompts that can be rolled out, and the category and id of each of the others.

    Raises:
        DataError: a category loses all its prompts.
    """
    kept: dict[str, list[dict[str, Any]]] = {}
    left_out: list[str] = []
    for category, rows in prompts.items():
        texts = [chat_text(tokenizer, row["prompt"][-1]["content"]) for row in rows]
        long = {place for place, _ in too_long(tokenizer, texts, new_tokens, limit)}
        kept[category] = [row for place, row in enumerate(rows) if place not in long]
        left_out += [f"{category}/{rows[place]['prompt_id']}" for place in sorted(long)]
        if not kept[category]:
            raise DataError(
                f"all {len(rows)} training prompts of {category} leave no room for a completion: with {new_tokens} new "
                f"tokens (policy.max_new_tokens) each is longer than the {limit} that the model can read (first: "
                f"{rows[0]['prompt_id']}); shorten the prompts, or lower policy.max_new_tokens"
            )
    return kept, left_out


def endless(rows: Sequence[dict[str, Any]], generator: random.Random) -> Iterator[dict[str, Any]]:
    """Give rows without an end, each once in every pass, and each pass in an order of its own.

    Args:
        rows: at least one.
        generator: decides the orders.
    """
    while True:
        order = list(rows)
        generator.shuffle(order)
        yield from order


def schedule(
    prompts: Mapping[str, Sequence[dict[str, Any]]],
    settings: PolicyConfig,
    seed: int,
    hardness: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Choose the prompts of all steps, so that every step mixes the categories and has the helpful share.

    Args:
        prompts: training prompts by category; `helpful` holds the harmless ones.
        settings: steps, prompts per step, helpful share, and order.
        seed: of the order inside a category, with `order: hardness` inside each of its stages.
        hardness: by id of the prompt, for `order: hardness`.

    Returns:
        steps * prompts_per_step rows. Harm categories alternate, or where `draw` says `rows`, have the share that they
        have of the prompts; look-alikes are spread evenly.

    Raises:
        DataError: with `order: hardness`, a prompt has no hardness, or a category fewer prompts than there are stages.
    """
    generator = random.Random(seed)  # noqa: S311 - reproducible order, not security
    harmful = {category: rows for category, rows in prompts.items() if category != taxonomy.HELPFUL}
    parts: list[Any] = [harmful]
    if settings.order == "hardness":
        parts = in_stages(harmful, settings.stages, hardness or {})
    if settings.draw == "rows":
        parts = [{taxonomy.ALL: [row for rows in part.values() for row in rows]} for part in parts]
    turns = [{category: endless(rows, generator) for category, rows in part.items()} for part in parts]
    categories = cycle(sorted(turns[0]))
    kinds = {kind: endless(rows, generator) for kind, rows in _by_kind(prompts.get(taxonomy.HELPFUL, ())).items()}
    helpful = _mixed(kinds, settings.look_alike_share)
    harmless = (
        min(round(settings.prompts_per_step * settings.helpful_share), settings.prompts_per_step - 1) if kinds else 0
    )
    rows: list[dict[str, Any]] = []
    for number in range(settings.steps):
        turn = turns[number * len(turns) // settings.steps]
        harm = [next(turn[category]) for category in islice(categories, settings.prompts_per_step - harmless)]
        step = [*harm, *islice(helpful, harmless)]
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
