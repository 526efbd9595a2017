"""The parts of the page's charts: scales, axes, legends, and the SVG around them.

A chart is drawn 360 units wide, so that it stays readable on a phone at its natural size. Series are coloured by the
classes `f-KEY` (filled) and `c-KEY` (lines), whose colours the template takes from `drirl_core.pictures.palette`, and
lines also differ by dash, so that colour is never the only cue. Every text passes through `Markup.format`, which
escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from drirl_core.pictures.palette import numbered

WIDTH = 360
LEGEND_LINE = 16


@dataclass(frozen=True)
class Series:
    """One row of numbers with a name.

    Args:
        name: shown in the legend.
        values: one number per label, step or bin; NaN leaves a gap.
        low: lower ends of the intervals, or None.
        high: upper ends of the intervals, or None.
        colour: key of its colour in the palette; empty for one by its place among the series.
    """

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = ""


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that cover an axis.

    Args:
        low: smallest value shown.
        high: largest value shown; values that are almost equal are spread by one.
        count: intervals wanted.

    Returns:
        Ascending multiples of 1, 2, 2.5 or 5 times a power of ten; the first is at or below `low`, the last at or above
        `high`.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = (low - 0.5, high + 0.5) if abs(low) > 1e-9 else (0.0, 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """A straight line from values to places.

    Args:
        low: value at `start`.
        high: value at `end`.
        start: place of the lowest value.
        end: place of the highest.
        integers: whether only whole numbers are marked.
    """

    low: float
    high: float
    start: float
    end: float
    integers: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value; the middle where there is one value alone."""
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start) if span else (self.start + self.end) / 2


def frame(
    along: Scale,
    up: Scale,
    marks: Sequence[float],
    span: tuple[float, float],
    names: tuple[str, str],
    percent: bool = False,
) -> list[Markup]:
    """Draw grid, marks and names of two axes.

    Args:
        along: horizontal scale.
        up: vertical scale.
        marks: values of the vertical grid; with `percent` also of the horizontal one.
        span: upper and lower end of the drawing.
        names: of the horizontal and of the vertical axis.
        percent: whether values are shares.
    """
    top, bottom = span
    parts = [
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
            '<text class="small" x="{}" y="{}" text-anchor="end">{}</text>'
        ).format(along.start, along.end, along.start - 5, rounded(up(m) + 3.5), shown(m, percent), y=rounded(up(m)))
        for m in marks
    ]
    x_marks = (
        marks
        if percent
        else [
            m
            for m in ticks(along.low, along.high)
            if along.low <= m <= along.high and (not along.integers or m == int(m))
        ]
    )
    parts += [
        Markup('<text class="small" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            rounded(along(m)), bottom + 13, shown(m, percent)
        )
        for m in x_marks
    ]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (along.start + along.end) / 2, bottom + 32, names[0]
        )
    )
    parts.append(
        Markup('<text class="axis" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            (top + bottom) / 2, names[1]
        )
    )
    return parts


def legend_of(series: Sequence[Series], y: float) -> tuple[Markup, int]:
    """Draw the names of the series in as many lines as they need.

    Args:
        series: what is named.
        y: place of the first line.

    Returns:
        The legend and the number of its lines.
    """
    drawn, x, line = Markup(""), 12.0, 0
    for i, one in enumerate(series):
        width = 26 + 6.2 * len(one.name)
        if x > 12.0 and x + width > WIDTH:
            x, line = 12.0, line + 1
        level = y + LEGEND_LINE * line
        drawn += Markup(
            '<rect class="f-{}" x="{}" y="{}" width="10" height="10"/><text class="small" x="{}" y="{}">{}</text>'
        ).format(colour_of(series, i), rounded(x), level - 6, rounded(x + 14), level + 3, one.name)
        x += width
    return drawn, line + 1 if series else 0


def picture(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    """Put the parts of a chart into one SVG with a title, which is also its name for screen readers."""
    head = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
        '<text class="title" x="12" y="15">{}</text>'
    ).format(WIDTH, rounded(height), title, title, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def colour_of(series: Sequence[Series], place: int) -> str:
    """Return the palette key of a series: its own, or by its place; a single one has the accent."""
    return series[place].colour or (numbered(place) if len(series) > 1 else "accent")


def shown(value: float, percent: bool = False, fine: bool = False) -> str:
    """Write a value of an axis or a bar.

    Args:
        value: finite number.
        percent: whether it is a share.
        fine: whether a share has a decimal.
    """
    if percent:
        return f"{value:.1%}" if fine else f"{value:.0%}"
    if value and (abs(value) < 0.001 or abs(value) >= 100000):
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rounded(value: float) -> float:
    """Return a coordinate to a tenth of a unit."""
    return round(value, 1)


def finite(value: float | None) -> bool:
    """Say whether there is a value that can be drawn."""
    return value is not None and math.isfinite(value)
