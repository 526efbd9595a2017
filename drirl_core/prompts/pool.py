"""The prompt pool in memory and on disk: kept rows, quarantined rows, counts, and what is said of each source."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from drirl_core.config import EMBEDDED
from drirl_core.prompts.adapters import PromptRow, SourceRows
from drirl_core.prompts.losses import Loss, losses_by_source
from drirl_core.prompts.router import Router
from drirl_core.reporting import Table
from drirl_core.store.tables import prompt_id, write_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

REASONS = (
    "empty_prompt",
    "too_long",
    "undecodable",
    "unknown_category",
    "router_abstained",
    "label_conflict",
    "exact_duplicate",
    "near_duplicate",
    "benchmark_overlap",
    "missing_value",
    "duplicate_id",
    "broken_text",
)

PROMPTS_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("labelled_by", pa.string(), nullable=False),
        pa.field("router_confidence", pa.float32()),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [pa.field("source", pa.string(), nullable=False), pa.field("row", pa.int64(), nullable=False)]
    + [pa.field(name, pa.string(), nullable=False) for name in ("prompt", "category", "reason", "detail")]
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is kept out of the pool, and why."""

    row: PromptRow
    reason: str
    detail: str

    @property
    def loss(self) -> Loss:
        """The same for counting, with the place of the row."""
        place = " ".join(filter(None, (self.row.file, f"row {self.row.row}")))
        return Loss(self.row.source, self.reason, place, self.detail)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of the pool.

    Args:
        row: as the source gives it.
        category: the harm category.
        confidence: the router's probability when it chose the category, else None.
        group_id: prompt_id that names the row's near-duplicate group.
    """

    row: PromptRow
    category: str
    confidence: float | None
    group_id: str


@dataclass(frozen=True)
class Pool:
    """The pool in memory.

    Args:
        categories: the harm categories.
        read: what each source holds, in the order of the configuration.
        kept: rows of the pool.
        rejected: rows kept out of it.
        router: the router, if one could be learned.
    """

    categories: tuple[str, ...]
    read: Sequence[SourceRows]
    kept: Sequence[Kept]
    rejected: Sequence[Rejected]
    router: Router | None


def tell_losses(context: Context, pool: Pool) -> None:
    """Log per source how many rows were skipped or quarantined, and why; of files of users as a warning.

    Args:
        context: names the sources and gets the lines.
        pool: the pool.
    """
    given = [item.loss for item in _in_order(context, pool.rejected)]
    losses = losses_by_source(Counter(item.row.source for item in pool.kept), given)
    for source, found in zip(context.config.prompt_sources, pool.read, strict=True):
        mark = "" if source.path == EMBEDDED else "warning: "
        if found.skipped:
            text = (
                f"{found.skipped} of {found.skipped + len(found.rows)} rows of {source.name} are skipped: the source "
            )
            context.reporter.log(f"{'' if found.rows else mark}{text}marks them as safe, or as no unsafe prompt")
        if source.name in losses:
            loss = losses[source.name]
            notable = loss.lost or loss.reasons.get("benchmark_overlap")
            context.reporter.log(f"{mark if notable else ''}{loss}")


def write_pool(context: Context, pool: Pool) -> dict[str, Any]:
    """Write the three files of a pool and return the stage's metadata.

    Args:
        context: where to write.
        pool: what to write.
    """
    read, kept, rejected, router = pool.read, pool.kept, pool.rejected, pool.router
    max_chars = context.config.prompts.max_chars
    write_table(
        context.out / "prompts.parquet",
        sorted(map(_prompt_row, kept), key=lambda row: row["prompt_id"]),
        PROMPTS_SCHEMA,
    )
    quarantined = [_quarantine_row(r, max_chars) for r in _in_order(context, rejected)]
    write_table(context.out / "quarantine.parquet", quarantined, QUARANTINE_SCHEMA)
    raw = Counter(row.category for found in read for row in found.rows if row.category)
    raw.update(item.category for item in kept if item.row.category is None)
    left = Counter(item.category for item in kept)
    reasons = Counter(r.reason for r in rejected)
    per_category = {category: {"raw": raw[category], "kept": left[category]} for category in pool.categories}
    totals = {
        "read": sum(len(found.rows) + found.skipped for found in read),
        "skipped": sum(found.skipped for found in read),
        "kept": len(kept),
        "quarantined": len(rejected),
    }
    counts = {**per_category, "_reasons": {reason: reasons[reason] for reason in REASONS}, "_totals": totals}
    (context.out / "counts.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    shown: dict[str, Any] = {**totals, **{reason: count for reason, count in sorted(reasons.items()) if count}}
    if router:
        from drirl_core.models.embeddings import RECORD

        shown |= {
            "router_accuracy": round(router.accuracy, 4),
            "router_calibration_error": round(router.calibration_error, 4),
            **RECORD,
        }
    shown["categories"] = Table([{"category": category, **numbers} for category, numbers in per_category.items()])
    return shown


def _in_order(context: Context, rejected: Sequence[Rejected]) -> list[Rejected]:
    order = {source.name: number for number, source in enumerate(context.config.prompt_sources)}
    return sorted(rejected, key=lambda r: (order[r.row.source], r.row.file, r.row.row))


def _prompt_row(item: Kept) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id(item.row.prompt),
        "prompt": item.row.prompt.strip(),
        "category": item.category,
        "source": item.row.source,
        "licence": item.row.licence,
        "labelled_by": "source" if item.confidence is None else "router",
        "router_confidence": item.confidence,
        "group_id": item.group_id,
        "row_id": item.row.row_id,
        "style": item.row.style,
    }


def _quarantine_row(item: Rejected, max_chars: int) -> dict[str, Any]:
    prompt, detail = item.row.prompt, f"{item.row.file}: {item.detail}" if item.row.file else item.detail
    if len(prompt) > max_chars:
        prompt, detail = prompt[:max_chars], f"{detail}; shown up to character {max_chars}"
    texts = {
        "prompt": prompt,
        "category": item.row.given or item.row.category or "",
        "reason": item.reason,
        "detail": detail,
    }
    # Lone surrogates cannot be stored; they are shown as escapes.
    printable = {name: text.encode("utf-8", "backslashreplace").decode("utf-8") for name, text in texts.items()}
    return {"source": item.row.source, "row": item.row.row, **printable}
