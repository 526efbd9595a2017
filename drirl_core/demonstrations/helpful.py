"""The harmless data set: helpful answers, safe look-alikes among the prompts, and refusals that are wrong for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.demonstrations.publish import publish, quarantine_row
from drirl_core.demonstrations.rows import Row, read_columns
from drirl_core.demonstrations.splits import SPLITS, assign_splits
from drirl_core.demonstrations.validate import Failure, check_helpful, check_refusal
from drirl_core.errors import DataError
from drirl_core.store.tables import prompt_id, read_table, write_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

KINDS = ("general", "look_alike")
REFUSALS = pa.schema([("refusal", pa.string())])


def build_helpful(context: Context) -> dict[str, Any]:
    """Build the harmless data set: every usable row of its source, and `refusals.parquet`.

    Args:
        context: inputs `prompt_pool` and the sources of harmless prompts and of refusals.

    Returns:
        As `stage.build_dataset`, with the number of refusals.

    Raises:
        DataError: a source cannot be read, no refusal is usable, or too few rows are usable to fill the three splits.
    """
    settings, quarantine = context.config.demonstrations, []
    path = context.inputs[f"source_{settings.helpful.name}"]
    read = read_columns(settings.helpful, path, ("prompt", "answer"), ("kind", "licence"))
    failures = _judge(read, context)
    rows = []
    for row, failure in zip(read, failures, strict=True):
        if failure:
            quarantine.append(quarantine_row(row.values["prompt"], taxonomy.HELPFUL, row.values["answer"], failure))
        else:
            rows.append(_data_row(row, settings.helpful.name, row.values["licence"] or settings.helpful.licence))
    _split(rows, context, [row["reason"] for row in quarantine])
    refusals = _refusals(context, quarantine)
    write_table(context.out / "refusals.parquet", [{"refusal": text} for text in refusals], REFUSALS)
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in KINDS}
    return publish(context, rows, quarantine, {**kinds, "refusals": len(refusals)})


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
            failure = Failure("duplicate_prompt", f"{row.place}: the prompt stands in {seen[key]} already")
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


def _data_row(row: Row, source: str, licence: str) -> dict[str, Any]:
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
    }


def _split(rows: list[dict[str, Any]], context: Context, reasons: Sequence[str]) -> None:
    """Add `group_id` and `split`, by near-duplicate group and within each kind that has groups enough."""
    from drirl_core.prompts.duplicates import find_duplicates

    settings, config = context.config.demonstrations, context.config
    rows.sort(key=lambda row: row["prompt_id"])
    grouping = find_duplicates([row["prompt"] for row in rows], config.prompts.near_duplicate).group
    kind_of: dict[str, str] = {}
    for row, root in zip(rows, grouping, strict=True):
        row["group_id"] = rows[root]["prompt_id"]
        kind_of.setdefault(row["group_id"], rows[root]["kind"])
    parts = [[group for group, of in kind_of.items() if of == kind] for kind in KINDS]
    small = [group for part in parts if len(part) < len(SPLITS) for group in part]
    split: Mapping[str, str] = dict.fromkeys(small, "train")
    large = [part for part in parts if len(part) >= len(SPLITS)]
    if not large:  # too few of either kind: split them together
        large, split = [[group for part in parts for group in part]], {}
    try:
        for part in large:
            split = {**split, **assign_splits(part, settings.validation_fraction, settings.test_fraction, config.seed)}
    except DataError as error:
        shown = ", ".join(sorted(set(reasons))) or "none"
        raise DataError(
            f"the source {settings.helpful.name} has {len(rows)} usable harmless rows: {error}. "
            f"Reasons of quarantine: {shown}. Add harmless prompts with answers"
        ) from error
    for row in rows:
        row["split"] = split[row["group_id"]]


def _refusals(context: Context, quarantine: list[dict[str, str]]) -> list[str]:
    """Return the usable refusals, sorted; the others go to quarantine."""
    source = context.config.demonstrations.refusals
    texts: dict[str, None] = {}
    for row in read_columns(source, context.inputs[f"source_{source.name}"], ("refusal",)):
        text = row.values["refusal"].strip()
        failure = row.failure or check_refusal(text)
        if failure is None and text in texts:
            failure = Failure("copied_answer", f"{row.place}: the same refusal stands in the file already")
        if failure:
            quarantine.append(quarantine_row("", taxonomy.HELPFUL, text, failure))
        else:
            texts[text] = None
    if not texts:
        raise DataError(
            f"the source {source.name} holds no usable refusal; the reward model of {taxonomy.HELPFUL} needs some to "
            "learn that harmless prompts are to be answered. Add refusals, or set its `path` to `embedded`"
        )
    return sorted(texts)
