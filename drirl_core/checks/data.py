"""The rules for the prompt pool and the data sets."""

import math
from collections import Counter, defaultdict
from pathlib import Path

from drirl_core.checks.reading import read_object, read_rows
from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.config import INBOX
from drirl_core.graph.layout import Node
from drirl_core.project import Project
from drirl_core.prompts.losses import Loss, SourceLosses, losses_by_source
from drirl_core.taxonomy import HELPFUL

DATASET_COLUMNS = (
    "prompt_id",
    "prompt",
    "category",
    "demonstration",
    "answer",
    "kind",
    "source",
    "licence",
    "split",
    "origin",
    "group_id",
)
SPLITS = ("train", "validation", "test")

LOSSES = "losses.json"  # of drirl_core.demonstrations.publish, which brings pyarrow

_EXAMPLES = 5


def _pool_not_empty(path: Path, project: Project, node: Node) -> Verdict:
    rows = Counter(row["category"] for row in read_rows(path, "prompts.parquet"))
    why = "".join(f"; {loss}" for loss in _losses(path).values()) if not rows else ""
    return Verdict(
        rows.total() > 0,
        f"{rows.total()} prompts in {len(rows)} categories{why}",
        {"prompts": rows.total(), **{f"prompts/{k}": n for k, n in sorted(rows.items())}},
    )


def _losses(path: Path) -> dict[str, SourceLosses]:
    """Return what each source of a pool lost."""
    quarantined = [
        Loss(row["source"], row["reason"], f"row {row['row']}", row["detail"])
        for row in read_rows(path, "quarantine.parquet")
    ]
    if not quarantined:
        return {}
    return losses_by_source(Counter(row["source"] for row in read_rows(path, "prompts.parquet")), quarantined)


def _pool_rows_usable(path: Path, project: Project, node: Node) -> Verdict:
    """No source may lose more than a share of its rows; rows that repeat others or a benchmark do not count.

    Dropped files are judged one by one where they are dropped: whoever drops one must not stop the runs of others.
    """
    bound = project.config.checks.max_lost_fraction
    losses = {name: loss for name, loss in _losses(path).items() if name != INBOX}
    broken = [loss for loss in losses.values() if loss.share > bound]
    worst = max((loss.share for loss in losses.values()), default=0.0)
    numbers = {
        "max_lost_fraction": bound,
        "worst_share": worst,
        **{f"lost/{name}": loss.lost for name, loss in sorted(losses.items())},
    }
    if not broken:
        return Verdict(True, f"at most {worst:.0%} of the rows of a source are lost, {bound:.0%} allowed", numbers)
    text = "; ".join(f"{loss} (lost are {loss.share:.0%}, {bound:.0%} allowed)" for loss in broken)
    return Verdict(
        False, f"{text}. Fix the file or how it is read (columns, adapter), or raise checks.max_lost_fraction", numbers
    )


def _pool_nothing_lost(path: Path, project: Project, node: Node) -> Verdict:
    """Each row that was read is kept, quarantined with a reason, or marked by its source as no unsafe prompt."""
    kept, quarantined = read_rows(path, "prompts.parquet"), read_rows(path, "quarantine.parquet")
    totals = read_object(path, "counts.json")["_totals"]
    lost = totals["read"] - totals["skipped"] - len(kept) - len(quarantined)
    repeated = sum(n > 1 for n in Counter(row["prompt_id"] for row in kept).values())
    unnamed = sum(not row["reason"] for row in quarantined)
    numbers = {
        **totals,
        "kept": len(kept),
        "quarantined": len(quarantined),
        "lost": lost,
        "repeated_prompts": repeated,
        "quarantined_without_reason": unnamed,
    }
    text = f"{totals['read']} rows read: {len(kept)} kept, {len(quarantined)} quarantined, "
    text += f"{totals['skipped']} skipped, {lost} lost"
    return Verdict(
        not (lost or repeated or unnamed), f"{text}; {repeated} kept twice, {unnamed} without a reason", numbers
    )


def _dataset_schema(path: Path, project: Project, node: Node) -> Verdict:
    rows = read_rows(path, "rows.parquet")
    missing = [name for name in DATASET_COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        return Verdict(
            False,
            f"{len(rows)} rows; columns missing: {', '.join(missing) or 'none'}",
            {"rows": len(rows), "missing_columns": ", ".join(missing)},
        )
    blank = sum(not (row["prompt"] or "").strip() or not (row["answer"] or "").strip() for row in rows)
    splits = Counter(row["split"] for row in rows)
    strange = sorted(map(str, {*splits} - {*SPLITS} | {row["category"] for row in rows} - {node.category}))
    numbers = {
        "rows": len(rows),
        "blank_rows": blank,
        **{f"rows/{name}": splits[name] for name in SPLITS},
        "strange": ", ".join(strange),
    }
    text = f"{len(rows)} rows ({', '.join(f'{splits[name]} {name}' for name in SPLITS)}), {blank} blank"
    text += f", unknown splits or categories: {', '.join(strange)}" if strange else ""
    return Verdict(not blank and not strange and all(splits[name] for name in SPLITS), text, numbers)


def _dataset_no_leakage(path: Path, project: Project, node: Node) -> Verdict:
    """No near-duplicate group and no prompt may be in two splits."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in read_rows(path, "rows.parquet"):
        found[f"group {row['group_id']}"].add(row["split"])
        found[f"prompt {row['prompt_id']}"].add(row["split"])
    leaks = sorted(key for key, splits in found.items() if len(splits) > 1)
    return Verdict(
        not leaks,
        f"{len(leaks)} groups or prompts stand in more than one split",
        {"leaks": len(leaks), "examples": ", ".join(leaks[:_EXAMPLES])},
    )


def _dataset_balance(path: Path, project: Project, node: Node) -> Verdict:
    """A harm category has exactly its quota, if there is one, and at most a share of it is resampled."""
    bound = project.config.checks.max_resampled_fraction
    rows = read_rows(path, "rows.parquet")
    asked = 0 if node.category == HELPFUL else project.config.demonstrations.quota_of(str(node.category))
    quota = asked or len(rows)
    resampled = sum(row["origin"] == "resampled" for row in rows)
    share = resampled / quota if quota else math.inf
    numbers = {
        "rows": len(rows),
        "quota": quota,
        "resampled": resampled,
        "resampled_share": share,
        "max_resampled_fraction": bound,
    }
    return Verdict(
        0 < len(rows) == quota and share <= bound,
        f"{len(rows)} rows of a quota of {quota}; {share:.0%} resampled, at most {bound:.0%} allowed",
        numbers,
    )


def _dataset_rows_usable(path: Path, project: Project, node: Node) -> Verdict:
    """No file of the user may lose more than a share of its rows."""
    bound = project.config.checks.max_lost_fraction
    losses = read_object(path, LOSSES) if (path / LOSSES).is_file() else {}
    broken = [name for name, loss in sorted(losses.items()) if loss["lost_share"] > bound]
    numbers = {
        "max_lost_fraction": bound,
        **{f"lost_share/{name}": loss["lost_share"] for name, loss in sorted(losses.items())},
    }
    if not broken:
        worst = max((loss["lost_share"] for loss in losses.values()), default=0.0)
        return Verdict(True, f"at most {worst:.0%} of the rows of a file are lost, {bound:.0%} allowed", numbers)
    text = "; ".join(
        f"{losses[name]['lost_share']:.0%} of the rows of {name} are lost, {bound:.0%} allowed; first: "
        f"{losses[name]['first']}"
        for name in broken
    )
    return Verdict(False, f"{text}. Fix the file or its column map, or raise checks.max_lost_fraction", numbers)


def _dataset_covered(path: Path, project: Project, node: Node) -> Verdict:
    """A prompt of the pool without a demonstration is not used; harmless prompts bring their own answers."""
    bound = project.config.checks.max_without_demonstration
    counts = read_object(path, "counts.json") if (path / "counts.json").is_file() else {}
    prompts, missing = counts.get("pool_prompts", 0), counts.get("without_demonstration", 0)
    share = missing / prompts if prompts else 0.0
    text = f"{missing} of {prompts} prompts of the pool have no demonstration and are not used"
    if counts.get("fill_up") and missing:
        text += f"; {counts['fill_up']} rows of the demonstrator's own prompts fill the quota"
    numbers = {
        "pool_prompts": prompts,
        "without_demonstration": missing,
        "share_without_demonstration": share,
        "max_without_demonstration": bound,
    }
    if not prompts:
        text = "there are no prompts of the pool to demonstrate"
    return Verdict(share <= bound, text, numbers)


PROMPT_POOL: tuple[Rule, ...] = (
    Rule("not_empty", "There are prompts.", _pool_not_empty, measures=("prompts",)),
    Rule(
        "nothing_lost",
        "Every prompt that was read is kept once or quarantined with a reason.",
        _pool_nothing_lost,
        measures=("kept", "quarantined"),
    ),
    Rule(
        "rows_usable",
        "No source loses more than a share of its rows to quarantine.",
        _pool_rows_usable,
        bounds=("checks.max_lost_fraction",),
        measures=("worst_share",),
    ),
)

DATASET: tuple[Rule, ...] = (
    Rule("schema", "Columns, splits and texts are as others expect them.", _dataset_schema, measures=("rows",)),
    Rule("no_split_leakage", "No near-duplicate group and no prompt stands in two splits.", _dataset_no_leakage),
    Rule(
        "class_balance",
        "The category has its quota, with little resampling.",
        _dataset_balance,
        bounds=("checks.max_resampled_fraction",),
        measures=("resampled_share",),
    ),
    Rule(
        "rows_usable",
        "No file of demonstrations, harmless prompts or refusals loses more than a share of its rows.",
        _dataset_rows_usable,
        bounds=("checks.max_lost_fraction",),
        measures=("lost_share",),
    ),
    Rule(
        "prompts_demonstrated",
        "Every prompt of the pool that was looked at has a demonstration, so that it is used.",
        _dataset_covered,
        blocking=False,
        bounds=("checks.max_without_demonstration",),
        measures=("share_without_demonstration",),
    ),
)
