"""How even the categories are, before and after balancing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core import taxonomy
from drirl_core.errors import DataError
from drirl_core.pictures.palette import on_white
from drirl_core.reporting import Plot, Table
from drirl_core.store.tables import read_table

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

SPLITS = ("train", "validation", "test")
ORIGINS = ("pool", "fill_up", "resampled")


def build_balance_report(context: Context) -> dict[str, Any]:
    """Count the rows of every category before and after balancing; write `balance.json` and `balance.png`.

    Args:
        context: inputs `prompt_pool`, every `safety_dataset_<category>` and `helpful_dataset`.

    Returns:
        Imbalance ratio (max/min; the text `a category is empty` when a category has no rows) and normalised entropy
        before and after, the largest resampled share, the table of counts and the plot.
    """
    settings = context.config.demonstrations
    before = _pool_counts(context.inputs["prompt_pool"])
    safety = {name: path for name, path in context.named("safety_dataset").items() if name}
    rows = []
    for category, path in sorted(safety.items()):
        raw, kept = before.get(category, (0, 0))
        rows.append(
            {"category": category, "raw": raw, "kept": kept, **_dataset_counts(path, settings.quota_of(category))}
        )
    columns = {name: {str(row["category"]): int(row[name]) for row in rows} for name in ("raw", "kept", "rows")}
    measures = {
        name: {"imbalance_ratio": imbalance_ratio(counts), "normalised_entropy": normalised_entropy(counts)}
        for name, counts in columns.items()
    }
    largest = max(float(row["resampled_share"]) for row in rows)
    report: dict[str, Any] = {
        "quota": settings.quota,
        **({"category_quota": dict(settings.category_quota)} if settings.category_quota else {}),
        "categories": {
            row["category"]: {key: value for key, value in row.items() if key != "category"} for row in rows
        },
        "before": measures["raw"],
        "cleaned": measures["kept"],
        "after": measures["rows"],
        "largest_resampled_share": largest,
    }
    helpful = context.inputs.get(f"{taxonomy.HELPFUL}_dataset")
    if helpful:
        report["helpful"] = {
            key: value for key, value in _dataset_counts(helpful, 0).items() if key in ("rows", *SPLITS)
        }
    _write_json(context.out / "balance.json", report)
    picture = context.out / "balance.png"
    _plot(columns["raw"], columns["rows"], report, picture)
    return {
        "imbalance_ratio_before": _shown(report["before"]["imbalance_ratio"]),
        "imbalance_ratio_after": _shown(report["after"]["imbalance_ratio"]),
        "normalised_entropy_before": round(report["before"]["normalised_entropy"], 4),
        "normalised_entropy_after": round(report["after"]["normalised_entropy"], 4),
        "largest_resampled_share": largest,
        "rows": sum(columns["rows"].values()),
        "counts": Table(rows),
        "plot": Plot(picture, "Rows per category: prompts as they came, and rows with demonstrations after balancing."),
    }


def imbalance_ratio(counts: Mapping[str, int]) -> float:
    """Return max/min of the counts: 1 is balanced, `inf` says that a category is empty.

    Args:
        counts: rows per category, at least one category with a row.

    Raises:
        DataError: there is no category, no row at all, or a negative count.
    """
    _check(counts)
    smallest = min(counts.values())
    return max(counts.values()) / smallest if smallest else math.inf


def normalised_entropy(counts: Mapping[str, int]) -> float:
    """Return -sum p ln p / ln K with p the share of a category: 1 is balanced, 0 says that one category has all rows.

    Args:
        counts: rows per category, at least one category with a row; a single category counts as balanced.

    Raises:
        DataError: there is no category, no row at all, or a negative count.
    """
    _check(counts)
    if len(counts) == 1:
        return 1.0
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n)
    return min(1.0, max(0.0, entropy / math.log(len(counts))))


def _check(counts: Mapping[str, int]) -> None:
    if not counts or min(counts.values()) < 0 or not sum(counts.values()):
        raise DataError(
            f"balance needs counts of at least one category, none negative and not all zero; given {dict(counts)}"
        )


def _shown(ratio: float, digits: int = 4) -> float | str:
    return round(ratio, digits) if math.isfinite(ratio) else "a category is empty"


def _pool_counts(pool: Path) -> dict[str, tuple[int, int]]:
    """Return (raw, kept) prompts per category."""
    path = pool / "counts.json"
    try:
        counts = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: (int(entry["raw"]), int(entry["kept"]))
            for name, entry in counts.items()
            if isinstance(entry, dict) and {"raw", "kept"} <= entry.keys()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}); materialize prompt_pool again") from error


def _dataset_counts(path: Path, quota: int) -> dict[str, int | float]:
    rows = read_table(path / "rows.parquet", ("prompt_id", "split", "origin"))
    splits, origins = Counter(row["split"] for row in rows), Counter(row["origin"] for row in rows)
    counts: dict[str, int | float] = {
        "rows": len(rows),
        **{name: origins[name] for name in ORIGINS},
        **{name: splits[name] for name in SPLITS},
    }
    return {**counts, "resampled_share": round(origins["resampled"] / quota, 4) if quota else 0.0}


def _write_json(path: Path, report: Mapping[str, Any]) -> None:
    # JSON has no infinity: an empty category shows as null.
    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(item) for key, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.write_text(json.dumps(finite(report), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _plot(before: Mapping[str, int], after: Mapping[str, int], report: Mapping[str, Any], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted(before, key=lambda name: (before[name], name))  # barh draws upwards: the largest ends on top
    figure = Figure(figsize=(7.2, 1.3 + 0.5 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for counts, shift, colour, label in ((before, 0.2, "pale", "before"), (after, -0.2, "accent", "after")):
        legend = f"{label} (max/min: {_shown(report[label]['imbalance_ratio'], 2)})"
        bars = axis.barh(
            [y + shift for y in range(len(names))],
            [counts[name] for name in names],
            0.38,
            color=on_white(colour),
            label=legend,
        )
        axis.bar_label(bars, padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=9)
    axis.set_xlabel("rows", fontsize=9)
    axis.set_title("Rows per category before and after balancing", fontsize=10, loc="left")
    axis.margins(x=0.1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(file, dpi=120, metadata={"Software": None})
