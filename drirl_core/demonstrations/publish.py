"""The files of a data set: rows, quarantine, counts and losses, the same for harm categories and harmless prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core.demonstrations.splits import SPLITS, hash_order
from drirl_core.demonstrations.validate import Failure
from drirl_core.graph.stages import STAGES
from drirl_core.prompts.losses import SourceLosses
from drirl_core.reporting import Table
from drirl_core.store.tables import write_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

ORIGINS = ("pool", "fill_up", "resampled")
_TABLE = STAGES["dataset"].table
ROWS = pa.schema([(name, pa.string()) for name in (_TABLE.columns if _TABLE else ())])
"""Columns of `rows.parquet`, which the stage's record names and explains."""
QUARANTINE = pa.schema([(name, pa.string()) for name in ("prompt", "category", "demonstration", "reason", "detail")])
LOSSES = "losses.json"
"""What files of the user lost: share and first reason by source; only where they lost rows."""

_SAMPLES = 5


def publish(
    context: Context,
    rows: Iterable[Mapping[str, Any]],
    quarantine: Sequence[Mapping[str, str]],
    extra: Mapping[str, int],
    losses: Sequence[SourceLosses] = (),
) -> dict[str, Any]:
    """Write the files of a data set and return the metadata to show.

    Args:
        context: where to write.
        rows: rows with the columns of `ROWS`.
        quarantine: rows with the columns of `QUARANTINE`.
        extra: further counts for `counts.json` and the metadata.
        losses: what files of the user lost.

    Returns:
        Metadata for display.
    """
    ordered = sorted(rows, key=lambda row: (row["prompt_id"], ORIGINS.index(row["origin"])))
    quarantined = sorted(
        quarantine, key=lambda row: (row["reason"], row["prompt"], row["detail"], row["demonstration"])
    )
    write_table(context.out / "rows.parquet", ordered, ROWS)
    write_table(context.out / "quarantine.parquet", quarantined, QUARANTINE)
    if losses:
        _write_losses(context, losses)
    origins, splits = Counter(row["origin"] for row in ordered), Counter(row["split"] for row in ordered)
    reasons = dict(sorted(Counter(row["reason"] for row in quarantined).items()))
    counts: dict[str, Any] = {
        "rows": len(ordered),
        **{name: origins[name] for name in ORIGINS},
        **{name: splits[name] for name in SPLITS},
        **extra,
    }
    text = json.dumps({"category": context.category, **counts, "quarantine": reasons}, indent=1, sort_keys=True)
    (context.out / "counts.json").write_text(text + "\n", encoding="utf-8")
    if reasons:
        listed = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
        context.reporter.log(f"{context.category}: {len(quarantined)} rows are in quarantine ({listed})")
    shown = sorted(
        (row for row in ordered if row["origin"] != "resampled"), key=lambda row: hash_order(0, row["prompt_id"])
    )[:_SAMPLES]
    samples = [{name: row[name] for name in ("prompt", "answer", "kind", "split", "origin")} for row in shown]
    tables = {
        "samples": Table(samples),
        "quarantine": Table([{"reason": reason, "rows": n} for reason, n in reasons.items()]),
    }
    return {**counts, "quarantined": len(quarantined), **tables}


def _write_losses(context: Context, losses: Sequence[SourceLosses]) -> None:
    found = {
        # Rounded, so that another sound row in the file does not make another data set.
        loss.source: {
            "lost_share": round(loss.share, 2),
            "first": ": ".join(filter(None, (loss.first.place, loss.first.detail))),
        }
        for loss in losses
    }
    for loss in losses:
        context.reporter.log(f"warning: {loss}")
    text = json.dumps(found, indent=1, sort_keys=True)
    (context.out / LOSSES).write_text(text.encode("utf-8", "backslashreplace").decode() + "\n", encoding="utf-8")


def quarantine_row(prompt: str, category: str, demonstration: str, failure: Failure) -> dict[str, str]:
    """Return a row of `quarantine.parquet`."""
    return {
        "prompt": prompt,
        "category": category,
        "demonstration": demonstration,
        "reason": failure.reason,
        "detail": failure.detail,
    }
