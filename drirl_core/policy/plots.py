"""Curves of a training log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drirl_core.pictures.palette import on_white

_COLUMNS = 2
"""More panels side by side would be wider than the dialog in which Dagster shows a picture."""


def curve_plot(
    log: Sequence[Mapping[str, float]], curves: Mapping[str, str], file: Path, title: str, policy: str = "dr_irl"
) -> None:
    """Draw one small panel per metric, two side by side.

    Args:
        log: one mapping per step, with `step`.
        curves: metric to label; metrics that were never logged are left out.
        file: PNG to write.
        title: heading above all panels.
        policy: whose colour the lines have, as results name it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the process

    shown = {key: label for key, label in curves.items() if any(key in row for row in log)}
    columns = min(_COLUMNS, max(1, len(shown)))
    lines = -(-max(1, len(shown)) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.1 * lines + 0.3))
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (key, label) in zip(axes.flat, shown.items(), strict=False):
        points = [(row["step"], row[key]) for row in log if key in row]
        axis.plot(*zip(*points, strict=True), color=on_white(policy), linewidth=1.4)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})
