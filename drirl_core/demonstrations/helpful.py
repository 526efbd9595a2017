"""The harmless data set: helpful answers, safe look-alikes among the prompts, and refusals that are wrong for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.demonstrations.publish import publish, quarantine_row
from drirl_core.demonstrations.rows import Row, losses_of, read_columns
from drirl_core.demonstrations.splits import SPLITS, assign_splits, hash_order
from drirl_core.demonstrations.twins import UnsafePrompts, find_sides, read_unsafe
from drirl_core.demonstrations.validate import Failure, check_helpful, check_refusal
from drirl_core.errors import DataError
from drirl_core.prompts.losses import SourceLosses
from drirl_core.store.tables import prompt_id, read_table, write_table

if TYPE_CHECKING:
    from pathlib import Path

    from drirl_core.config import Config
    from drirl_core.graph.build import Context

KINDS = ("general", "look_alike")
REFUSALS = pa.schema([("refusal", pa.string())])


def build_helpful(context: Context) -> dict[str, Any]:
    """Build the harmless data set: the usable rows of its source, and `refusals.parquet`.

    Args:
        context: inputs `prompt_pool`, the data sets of the harm categories, and the sources of harmless prompts and of
            refusals.

    Returns:
        As `stage.build_dataset`, with the number of refusals and of rows whose unsafe twin is in the pool.

    Raises:
        DataError: a source cannot be read, no refusal is usable, or too few rows are usable to fill the three splits.
    """
    settings, quarantine = context.config.demonstrations, []
    read = read_harmless(context.config, context.inputs[f"source_{settings.helpful.name}"])
    failures = _judge(read, context)
    unsafe = read_unsafe(context.inputs["prompt_pool"], context.named("safety_dataset"))
    rows = []
    for row, failure in zip(read, failures, strict=True):
        if failure:
            quarantine.append(quarantine_row(row.values["prompt"], taxonomy.HELPFUL, row.values["answer"], failure))
        else:
            licence = row.values["licence"] or settings.helpful.licence
            rows.append(_data_row(row, settings.helpful.name, licence, unsafe.find(row.values["twin_of"])))
    if settings.helpful_quota:
        rows = sorted(rows, key=lambda row: hash_order(context.config.seed, row["prompt_id"]))[: settings.helpful_quota]
    rows = _split(rows, context, quarantine, unsafe)
    refusals, lost_refusals = _refusals(context, quarantine)
    write_table(context.out / "refusals.parquet", [{"refusal": text} for text in refusals], REFUSALS)
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    twins = sum(bool(row["twin_of"]) for row in rows)
    losses = [*losses_of(settings.helpful, read, failures), *lost_refusals]
    return publish(context, rows, quarantine, {**kinds, "twins": twins, "refusals": len(refusals)}, losses)


def read_harmless(config: Config, path: Path) -> list[Row]:
    """Read the harmless prompts with their answers.

    Args:
        config: names the source.
        path: its file.

    Raises:
        ConfigError: the column map names a column that is not read.
        DataError: the file cannot be read, is empty or lacks a needed or mapped column.
    """
    source = config.demonstrations.helpful
    return read_columns(source, path, ("prompt", "answer"), ("kind", "licence", "style", "twin_of"))


def _judge(rows: Sequence[Row], context: Context) -> list[Failure | None]:
    """Say of every row why it cannot be used, or None."""
    from drirl_core.prompts.duplicates import decontaminate

    prompts = [row.values["prompt"] for row in rows]
    overlaps = decontaminate(
        prompts, benchmark_prompts(context.config.benchmarks.suites), context.config.prompts.near_duplicate
    )
    # A look-alike is meant to resemble an unsafe prompt, so only one with the very same wording contradicts the pool.
    pool = {
        prompt_id(row["prompt"].casefold())
        for row in read_table(context.inputs["prompt_pool"] / "prompts.parquet", ("prompt",))
    }
    seen: dict[str, str] = {}
    verdicts: list[Failure | None] = []
    for row, overlap in zip(rows, overlaps, strict=True):
        key = prompt_id(row.values["prompt"].casefold())
        failure = row.failure or _check_kind(row) or check_helpful(row.values["answer"])
        if failure is None and key in pool:
            failure = Failure("label_conflict", f"{row.place}: the pool holds the same prompt as unsafe")
        elif failure is None and key in seen:
            failure = Failure("duplicate_prompt", f"{row.place}: the prompt is already in {seen[key]}")
        elif failure is None and overlap:
            failure = Failure(
                "benchmark_overlap",
                f"{row.place}: it repeats the benchmark prompt {overlap.prompt!r} "
                f"(similarity {overlap.similarity:.2f})",
            )
        if failure is None:
            seen[key] = row.place
        verdicts.append(failure)
    return verdicts


def _check_kind(row: Row) -> Failure | None:
    kind = row.values["kind"]
    return (
        None
        if kind in ("", *KINDS)
        else Failure(
            "unknown_category", f"{row.place}: kind {kind!r}; use {' or '.join(KINDS)}, or leave it empty for general"
        )
    )


def _data_row(row: Row, source: str, licence: str, twin_of: str) -> dict[str, Any]:
    prompt, answer = row.values["prompt"].strip(), row.values["answer"].strip()
    return {
        "prompt_id": prompt_id(prompt),
        "prompt": prompt,
        "category": taxonomy.HELPFUL,
        "demonstration": answer,
        "answer": answer,
        "kind": row.values["kind"] or KINDS[0],
        "source": source,
        "licence": licence,
        "origin": "pool",
        "style": row.values["style"],
        "twin_of": twin_of,
    }


def _split(
    rows: list[dict[str, Any]], context: Context, quarantine: list[dict[str, str]], unsafe: UnsafePrompts
) -> list[dict[str, Any]]:
    """Return the rows with `group_id` and `split`.

    Twins follow their unsafe prompts; the others are split within each kind. A row that would have to be in two splits
    is quarantined.
    """
    from drirl_core.prompts.duplicates import find_duplicates

    rows = sorted(rows, key=lambda row: row["prompt_id"])
    near = find_duplicates([row["prompt"] for row in rows], context.config.prompts.near_duplicate).group
    sides = find_sides(rows, near, unsafe)
    kept: list[dict[str, Any]] = []
    for row, group, torn in zip(rows, sides.group, sides.torn, strict=True):
        if torn:
            detail = f"it resembles a row of the split {sides.split[group]}, and its unsafe twin is in another one"
            quarantine.append(
                quarantine_row(row["prompt"], taxonomy.HELPFUL, row["answer"], Failure("near_duplicate", detail))
            )
        else:
            kept.append({**row, "group_id": group})
    split = sides.split | _split_free(kept, sides.split, context, quarantine)
    return [{**row, "split": split[row["group_id"]]} for row in kept]


def _split_free(
    rows: Sequence[Mapping[str, Any]],
    taken: Mapping[str, str],
    context: Context,
    quarantine: Sequence[Mapping[str, str]],
) -> dict[str, str]:
    """Split the groups without a twin, within each kind that has enough groups; a kind with fewer is trained on."""
    settings, seed = context.config.demonstrations, context.config.seed
    kind_of: dict[str, str] = {}
    for row in rows:
        if row["group_id"] not in taken:
            kind_of.setdefault(row["group_id"], row["kind"])
    parts = [[group for group, of in kind_of.items() if of == kind] for kind in KINDS]
    split = dict.fromkeys((group for part in parts if len(part) < len(SPLITS) for group in part), "train")
    large = [part for part in parts if len(part) >= len(SPLITS)]
    if not large and not set(SPLITS) <= set(taken.values()):  # too few of either kind: split them together
        large, split = [[group for part in parts for group in part]], {}
    try:
        for part in large:
            split |= assign_splits(part, settings.validation_fraction, settings.test_fraction, seed)
    except DataError as error:
        shown = ", ".join(sorted({row["reason"] for row in quarantine})) or "none"
        raise DataError(
            f"the source {settings.helpful.name} has {len(rows)} usable harmless rows: {error}. "
            f"Reasons of quarantine: {shown}. Add harmless prompts with answers"
        ) from error
    return split


def _refusals(context: Context, quarantine: list[dict[str, str]]) -> tuple[list[str], list[SourceLosses]]:
    """Return the usable refusals, sorted, and what their file lost; the other rows are quarantined."""
    source = context.config.demonstrations.refusals
    texts: dict[str, None] = {}
    rows = read_columns(source, context.inputs[f"source_{source.name}"], ("refusal",))
    failures = []
    for row in rows:
        text = row.values["refusal"].strip()
        failure = row.failure or check_refusal(text)
        if failure is None and text in texts:
            failure = Failure("copied_answer", f"{row.place}: the same refusal is already in the file")
        if failure:
            quarantine.append(quarantine_row("", taxonomy.HELPFUL, text, failure))
        else:
            texts[text] = None
        failures.append(failure)
    if not texts:
        raise DataError(
            f"the source {source.name} holds no usable refusal; the reward model of {taxonomy.HELPFUL} needs some to "
            "learn that harmless prompts are to be answered. Add refusals, or set its `path` to `embedded`"
        )
    return sorted(texts), losses_of(source, rows, failures)
