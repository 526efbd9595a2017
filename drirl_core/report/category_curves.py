"""Training curves by category: one chart per measure, with one line per category and one legend for all charts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from drirl_core.pictures.palette import numbered
from drirl_core.report.cells import category_name
from drirl_core.report.drawing import Series
from drirl_core.report.plots import keys, lines

_MEASURES = (("reward", "Reward"), ("gap", "Reward gap"), ("alpha", "Alpha"))
_WINDOWS = 12
"""A line is smoothed over about this part of the steps, because a batch holds few prompts of one category."""


def category_section(log: Sequence[Mapping[str, Any]], steps: Sequence[float]) -> dict[str, Any]:
    """Return the charts of what the log has by category, and their legend.

    Args:
        log: one mapping per step with keys such as `gap/insult/mean`.
        steps: numbers of the steps.

    Returns:
        `charts`, `keys` (a piece of line and its category) and `note`; without charts when the log has no such keys.
    """
    found = {measure: _curves(log, measure) for measure, _ in _MEASURES}
    names = sorted({name for curves in found.values() for name in curves})
    window = max(1, len(steps) // _WINDOWS) | 1  # odd, so that its middle is a step
    axes = {
        measure: title.lower() + (f", mean of {window} steps" if window > 1 else "") for measure, title in _MEASURES
    }
    series = {
        measure: [
            Series(category_name(name), smoothed(bridged(found[measure].get(name, [math.nan] * len(steps))), window),
                   colour=numbered(names.index(name)))
            for name in names
        ]
        for measure, _ in _MEASURES
        if found[measure]
    }  # fmt: skip
    charts = [
        lines(f"{title} by category", steps, series[measure], axes=("step", axes[measure]), legend=False)
        for measure, title in _MEASURES
        if measure in series
    ]
    note = "A category is not in every batch; its line bridges the steps without it"
    note += f" and shows the mean of {window} steps." if window > 1 else "."
    return {"charts": charts, "keys": keys(next(iter(series.values()))) if charts else [], "note": note}


def bridged(values: Sequence[float]) -> list[float]:
    """Fill gaps between known values by straight lines: a category is not in every batch.

    Args:
        values: numbers at even steps, NaN where unknown.

    Returns:
        The same; NaN is left before the first and after the last known value.
    """
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    filled = list(values)
    for left, right in itertools.pairwise(known):
        for i in range(left + 1, right):
            filled[i] = values[left] + (values[right] - values[left]) * (i - left) / (right - left)
    return filled


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Replace each known value by the mean of the known values around it.

    Args:
        values: numbers at even steps, NaN where unknown.
        window: odd number of steps; fewer at both ends.
    """
    half, result = window // 2, []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        result.append(sum(near) / len(near) if math.isfinite(value) else value)
    return result


def _curves(log: Sequence[Mapping[str, Any]], measure: str) -> dict[str, list[float]]:
    parts = {key: key.split("/") for row in log for key in row}
    names = {part[1] for part in parts.values() if len(part) == 3 and part[0] == measure and part[2] == "mean"}
    return {name: [number_at(row, f"{measure}/{name}/mean") for row in log] for name in names}


def number_at(row: Mapping[str, Any], key: str) -> float:
    """Return a logged number, or NaN where the step has none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else math.nan
