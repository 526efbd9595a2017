"""The stage that sorts labelled completions by category: kept, or in quarantine with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.graph.layout import dataset_name
from drirl_core.prompts.duplicates import decontaminate
from drirl_core.prompts.router import NoRouterError, router_of_pool
from drirl_core.reporting import Table
from drirl_core.rewards.labels.exclusion import labelled_rows
from drirl_core.rewards.labels.rows import RIGHT, WRONG, LabelledRow
from drirl_core.store.tables import normalise, prompt_id, read_table, write_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

_TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        *((name, _TEXT) for name in ("prompt_id", "prompt", "category", "split")),
        ("pair", pa.bool_()),
        *((name, _TEXT) for name in ("answer", "label", "source")),
    ]
)
QUARANTINE = pa.schema([(name, _TEXT) for name in ("prompt", "category", "source", "reason", "detail")])
HELD_OUT = ("validation", "test")

Problem = tuple[str, str]
"""Reason and detail of a row in quarantine."""


def build_reward_labels(context: Context) -> dict[str, Any]:
    """Sort out the labels of `context.category`; write `labels.parquet`, `quarantine.parquet` and `counts.json`.

    Args:
        context: inputs `prompt_pool`, all data sets, and the sources of `rewards.labels`.

    Returns:
        Rows by label and split, quarantined rows, and a table of the reasons.

    Raises:
        DataError: a file cannot be read.
    """
    category, first = str(context.category), taxonomy.load_categories(context.config.prompts.taxonomy)[0]
    rows = labelled_rows(context.config, context.inputs)
    named, problems = _categories(context, rows)
    problems = [problem or other for problem, other in zip(problems, _problems(context, rows), strict=True)]
    # A row of no category would be in every quarantine; only that of the first category has it.
    own = [i for i, name in enumerate(named) if (name or first) == category]
    kept = [rows[i] for i in own if not problems[i]]
    quarantine = [
        {
            "prompt": rows[i].prompt,
            "category": named[i],
            "source": rows[i].source,
            "reason": problem[0],
            "detail": f"{rows[i].place}: {problem[1]}",
        }
        for i in own
        if (problem := problems[i])
    ]
    splits = _splits(context, [row.prompt for row in kept])
    table = label_table(kept, category, splits)
    write_table(context.out / "labels.parquet", table, SCHEMA)
    write_table(context.out / "quarantine.parquet", quarantine, QUARANTINE)
    counts = {
        "rows": len(table),
        **{name: sum(row["label"] == name for row in table) for name in (RIGHT, WRONG)},
        "pairs": sum(row["pair"] for row in table) // 2,
        **{f"in_{split}": sum(row["split"] == split for row in table) for split in ("train", *HELD_OUT)},
        "quarantined": len(quarantine),
    }
    (context.out / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True), encoding="utf-8")
    reasons = Counter(row["reason"] for row in quarantine)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        context.reporter.log(f"{category}: {len(quarantine)} labelled rows are in quarantine: {listed}")
    shown = [{"reason": reason, "rows": count} for reason, count in reasons.most_common()]
    return {**counts, **({"quarantine": Table(shown)} if shown else {})}


def label_table(rows: Sequence[LabelledRow], category: str, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Lay out labelled rows as rows of `labels.parquet`.

    Args:
        rows: N rows; of equal ones the first is kept, because a copy would only count twice.
        category: theirs.
        splits: split of each, N.

    Returns:
        One row per labelled completion and two per preference pair. `item` groups the labelled completions of a prompt;
        a preference pair is an item of its own, because it says nothing about completions of other pairs.
    """
    items: dict[tuple[str, ...], int] = {}
    table: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, split in zip(rows, splits, strict=True):
        identity = prompt_id(row.prompt)
        group = (identity, row.right, row.wrong) if row.pair else (identity,)
        item = items.setdefault(group, len(items))
        for answer, label in ((row.right, RIGHT), (row.wrong, WRONG)):
            if answer:
                table.setdefault(
                    (item, answer, label),
                    {
                        "item": item, "prompt_id": identity, "prompt": row.prompt, "category": category, "split": split,
                        "pair": row.pair, "answer": answer, "label": label, "source": row.source,
                    },
                )  # fmt: skip
    return list(table.values())


def _categories(context: Context, rows: Sequence[LabelledRow]) -> tuple[list[str], list[Problem | None]]:
    """Name the category of each row: its own, else that of its prompt in the data, else the router's."""
    known = {r["prompt_id"]: r["category"] for r in read_table(_pool(context), ("prompt_id", "category"))}
    for row in read_table(context.inputs[dataset_name(taxonomy.HELPFUL)] / "rows.parquet", ("prompt_id",)):
        known.setdefault(row["prompt_id"], taxonomy.HELPFUL)
    named = [row.category or known.get(prompt_id(row.prompt), "") for row in rows]
    problems: list[Problem | None] = [None] * len(rows)
    open_rows = [i for i, name in enumerate(named) if not name]
    if not open_rows:
        return named, problems
    from drirl_core.models.embeddings import Embedder

    embedder, config = Embedder(context.config.models, context.store), context.config
    try:
        router = router_of_pool(context.inputs["prompt_pool"], embedder, config.seed)
    except NoRouterError as error:
        for i in open_rows:
            problems[i] = ("unknown_category", f"no category is given, and there is no router: {error}")
        return named, problems
    routes = router.route(embedder.encode([rows[i].prompt for i in open_rows]), config.prompts.router_confidence)
    for i, route in zip(open_rows, routes, strict=True):
        named[i] = route.category or ""
        if not named[i]:
            problems[i] = (
                "router_abstained",
                f"no category is given; best guess {route.best} at {route.confidence:.2f}. Add a column category",
            )
    return named, problems


def _problems(context: Context, rows: Sequence[LabelledRow]) -> list[Problem | None]:
    """Say why each row cannot be used, whatever its category."""
    config = context.config
    overlaps = decontaminate(
        [row.prompt for row in rows], benchmark_prompts(config.benchmarks.suites), config.prompts.near_duplicate
    )
    said: dict[tuple[str, str], set[bool]] = {}
    for row in rows:
        if not row.pair:
            said.setdefault(_completion(row), set()).add(bool(row.right))
    found: list[Problem | None] = []
    for row, overlap in zip(rows, overlaps, strict=True):
        problem: Problem | None = None
        if overlap:
            problem = (
                "benchmark_overlap",
                f"repeats the benchmark prompt {overlap.prompt!r} ({overlap.similarity:.2f})",
            )
        elif len(row.prompt.strip()) > config.prompts.max_chars:
            problem = ("too_long", f"{len(row.prompt.strip())} characters, at most {config.prompts.max_chars} are used")
        elif row.pair and normalise(row.right) == normalise(row.wrong):
            problem = ("equal_sides", "chosen and rejected are the same text")
        elif not row.pair and len(said[_completion(row)]) > 1:
            problem = ("contradicting_labels", f"the same completion of this prompt is labelled {RIGHT} and {WRONG}")
        found.append(problem)
    return found


def _completion(row: LabelledRow) -> tuple[str, str]:
    return prompt_id(row.prompt), normalise(row.right or row.wrong)


def _splits(context: Context, prompts: Sequence[str]) -> list[str]:
    """Return `validation` or `test` for prompts that repeat a held-out prompt of any data set, `train` for others."""
    held: Mapping[str, list[str]] = {split: [] for split in HELD_OUT}
    for folder in context.datasets().values():
        for row in read_table(folder / "rows.parquet", ("prompt", "split")):
            held.get(row["split"], []).append(row["prompt"])
    splits = ["train"] * len(prompts)
    for split in HELD_OUT:
        found = decontaminate(prompts, held[split], context.config.prompts.near_duplicate)
        splits = [split if overlap else before for before, overlap in zip(splits, found, strict=True)]
    return splits


def _pool(context: Context) -> Any:
    return context.inputs["prompt_pool"] / "prompts.parquet"
