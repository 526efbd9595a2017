"""Charts as inline SVG: no pictures to load, text that scales and selects, colours that follow light and dark.

A chart is drawn 360 units wide, so that it stays readable on a phone at its natural size. Series are coloured by the
classes `c0` ... `c7` (the template gives them the colour-blind safe Okabe-Ito palette) and also differ by dash or
marker, so that colour is never the only cue. Every text passes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360
_PALETTE = 8
_DASHES = ("6 3", "", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Series:
    """One row of numbers with a name.

    Args:
        name: shown in the legend.
        values: one number per label, step or bin; NaN leaves a gap.
        low: lower ends of the intervals, or None.
        high: upper ends of the intervals, or None.
    """

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Point:
    """A named point with an interval in both directions: each is (value, low, high)."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


@dataclass(frozen=True)
class Curve:
    """A named ROC curve with its operating point.

    Args:
        name: shown in the legend.
        points: (x, y) shares from (0, 0) to (1, 1).
        at: the operating point.
        colour: number of its colour.
        dashed: whether it is drawn dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    at: tuple[float, float]
    colour: int
    dashed: bool = False


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


def horizontal_bars(
    title: str, labels: Sequence[str], series: Sequence[Series], *, axis: str, percent: bool = True
) -> Markup:
    """Draw grouped horizontal bars with error bars, one group per label.

    Args:
        title: title of the chart.
        labels: names of the groups, written above their bars so that long ones fit.
        series: one bar in every group each; values are shares when `percent`.
        axis: name of the value axis with its unit.
        percent: scale 0 to 100 %; otherwise from 0 to the largest value.
    """
    bar, gap, top, left, right = 9, 20, 44 if len(series) > 1 else 28, 12, 44
    height = top + len(labels) * (gap + bar * len(series)) + 40
    largest = max((v for s in series for v in (*s.values, *(s.high or ())) if _finite(v)), default=1.0)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else ticks(0.0, largest or 1.0)
    scale = _Scale(marks[0], marks[-1], left, WIDTH - right)
    bottom = height - 34
    parts = [_legend(series, 30)] if len(series) > 1 else []
    parts += [_grid_x(scale(m), top, bottom, _number(m, percent)) for m in marks]
    y = top
    for g, label in enumerate(labels):
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(left, y + 13, label))
        y += gap - 3
        for s, one in enumerate(series, start=_first_colour(series)):
            parts.append(_bar(scale, one, (g, s), (y, bar), percent))
            y += bar
        y += 3
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (left + WIDTH - right) / 2, height - 4, axis
        )
    )
    return _svg(title, height, parts)


def lines(
    title: str, x: Sequence[float], series: Sequence[Series], *, x_label: str, y_label: str, cover: Sequence[float] = ()
) -> Markup:
    """Draw lines over steps, with a band where a series has an interval.

    Args:
        title: title of the chart.
        x: positions of the values, ascending.
        series: lines; NaN breaks a line.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        cover: values that the vertical axis must reach as well, such as 0, or the ends of charts to compare with.
    """
    height, left, right, top, bottom = 220, 46, 12, 48 if len(series) > 1 else 34, 40
    every = [v for s in series for v in (*s.values, *(s.low or ()), *(s.high or ())) if _finite(v)] + list(cover)
    marks = ticks(min(every, default=0.0), max(every, default=1.0))
    up = _Scale(marks[0], marks[-1], height - bottom, top)
    along = _Scale(
        min(x, default=0), max(x, default=1), left, WIDTH - right, integers=all(float(a).is_integer() for a in x)
    )
    parts = [_legend(series, 30)] if len(series) > 1 else []
    parts += _frame(along, up, marks, (top, height - bottom), (x_label, y_label))
    for i, one in enumerate(series, start=_first_colour(series)):
        if one.low is not None and one.high is not None:
            parts.append(_band(i, along, up, x, one))
        parts.append(_path(i, [(along(a), up(b)) if _finite(b) else None for a, b in zip(x, one.values, strict=True)]))
    return _svg(title, height, parts)


def histogram(
    title: str,
    values: Sequence[float],
    *,
    x_label: str,
    bins: int = 12,
    marker: float | None = None,
    span: tuple[float, float] | None = None,
) -> Markup:
    """Draw how often values occur, with a dashed line at `marker`.

    Args:
        title: title of the chart.
        values: finite numbers; an empty list draws an empty frame.
        x_label: name of the value axis.
        bins: number of bars.
        marker: a value to mark, such as the mean.
        span: ends of the value axis, for charts that are to be compared; the values' own ends otherwise.
    """
    height, left, right, top, bottom = 180, 40, 12, 34, 40
    marks = ticks(*(span or (min(values, default=0.0), max(values, default=1.0))))
    low, high = marks[0], marks[-1]
    counts = [0] * bins
    for value in values:
        counts[max(0, min(bins - 1, int((value - low) / (high - low) * bins)))] += 1
    along = _Scale(low, high, left, WIDTH - right)
    count_marks = [m for m in ticks(0, max(*counts, 1), 3) if m == int(m)]
    up = _Scale(0, count_marks[-1], height - bottom, top)
    parts = _frame(along, up, count_marks, (top, height - bottom), (x_label, "rows"))
    width = (WIDTH - right - left) / bins
    for i, count in enumerate(counts):
        parts.append(
            Markup('<rect class="f1" x="{}" y="{}" width="{}" height="{}"/>').format(
                _r(left + i * width + 0.5), _r(up(count)), _r(width - 1), _r(height - bottom - up(count))
            )
        )
    if marker is not None and _finite(marker):
        parts.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                _r(along(marker)), top, height - bottom
            )
        )
    return _svg(title, height, parts)


def scatter(title: str, points: Sequence[Point], *, x_label: str, y_label: str) -> Markup:
    """Draw named shares against each other with their intervals, both axes from 0 to 100 %."""
    height, left, right, top, bottom = 300, 46, 16, 48, 42
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    along, up = _Scale(0, 1, left, WIDTH - right), _Scale(0, 1, height - bottom, top)
    parts = [_legend([Series(p.name, ()) for p in points], 30)]
    parts += _frame(along, up, marks, (top, height - bottom), (x_label, y_label), percent=True)
    for i, point in enumerate(points):
        (x, x0, x1), (y, y0, y1) = point.x, point.y
        error = Markup('<line class="error" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(error.format(_r(along(x0)), _r(along(x1)), _r(up(y)), _r(up(y))))
        parts.append(error.format(_r(along(x)), _r(along(x)), _r(up(y0)), _r(up(y1))))
        parts.append(
            Markup('<circle class="f{}" cx="{}" cy="{}" r="6"><title>{}: {:.0%}, {:.0%}</title></circle>').format(
                i % _PALETTE, _r(along(x)), _r(up(y)), point.name, x, y
            )
        )
    return _svg(title, height, parts)


def roc(title: str, curves: Sequence[Curve], *, x_label: str, y_label: str) -> Markup:
    """Draw ROC curves with their operating points, both axes from 0 to 100 %."""
    height, left, right, top, bottom = 320, 46, 16, 34 + 16 * len(curves), 42
    height += 16 * max(0, len(curves) - 2)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    along, up = _Scale(0, 1, left, WIDTH - right), _Scale(0, 1, height - bottom, top)
    parts = [_legend([Series(curve.name, ())], 30 + 16 * i, curve.colour) for i, curve in enumerate(curves)]
    parts += _frame(along, up, marks, (top, height - bottom), (x_label, y_label), percent=True)
    for curve in curves:
        places = " L".join(f"{_r(along(x))} {_r(up(y))}" for x, y in curve.points)
        parts.append(
            Markup('<path class="c{}" d="M{}" stroke-dasharray="{}"/>').format(
                curve.colour % _PALETTE, places, "5 3" if curve.dashed else ""
            )
        )
        parts.append(
            Markup('<circle class="f{}" cx="{}" cy="{}" r="5"><title>{}: {:.0%}, {:.0%}</title></circle>').format(
                curve.colour % _PALETTE, _r(along(curve.at[0])), _r(up(curve.at[1])), curve.name, *curve.at
            )
        )
    return _svg(title, height, parts)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    integers: bool = False

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start) if span else (self.start + self.end) / 2


def _bar(scale: _Scale, one: Series, at: tuple[int, int], place: tuple[float, float], percent: bool) -> Markup:
    (group, index), (y, thick) = at, place
    value = one.values[group]
    if not _finite(value):
        return Markup("")
    end = scale(value)
    drawn = Markup('<rect class="f{}" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>').format(
        index % _PALETTE,
        scale.start,
        y,
        _r(max(0.0, end - scale.start)),
        thick - 1.5,
        one.name,
        _number(value, percent, fine=True),
    )
    if one.low is not None and one.high is not None and _finite(one.low[group]) and _finite(one.high[group]):
        end = scale(one.high[group])
        middle = y + thick / 2 - 0.75
        drawn += Markup('<line class="error" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _r(scale(one.low[group])), _r(end), middle, middle
        )
    return drawn + Markup('<text class="small" x="{}" y="{}">{}</text>').format(
        _r(max(end, scale(value)) + 4), y + thick - 1.5, _number(value, percent)
    )


def _frame(
    along: _Scale,
    up: _Scale,
    marks: Sequence[float],
    span: tuple[float, float],
    names: tuple[str, str],
    percent: bool = False,
) -> list[Markup]:
    top, bottom = span
    parts = [
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
            '<text class="small" x="{}" y="{}" text-anchor="end">{}</text>'
        ).format(along.start, along.end, along.start - 5, _r(up(m) + 3.5), _number(m, percent), y=_r(up(m)))
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
            _r(along(m)), bottom + 13, _number(m, percent)
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


def _grid_x(x: float, top: float, bottom: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="small" x="{0}" y="{3}" text-anchor="middle">{4}</text>'
    ).format(_r(x), top, bottom, bottom + 13, label)


def _band(index: int, along: _Scale, up: _Scale, x: Sequence[float], one: Series) -> Markup:
    rows = [
        (a, lo, hi) for a, lo, hi in zip(x, one.low or (), one.high or (), strict=True) if _finite(lo) and _finite(hi)
    ]
    edge = [(along(a), up(hi)) for a, _, hi in rows] + [(along(a), up(lo)) for a, lo, _ in reversed(rows)]
    return Markup('<polygon class="f{} band" points="{}"/>').format(
        index % _PALETTE, " ".join(f"{_r(a)},{_r(b)}" for a, b in edge)
    )


def _path(index: int, places: Sequence[tuple[float, float] | None]) -> Markup:
    drawn, commands, alone = Markup(""), [], True
    for i, place in enumerate(places):
        if place is None:
            alone = True
            continue
        commands.append(f"{'M' if alone else 'L'}{_r(place[0])} {_r(place[1])}")
        neighbour = places[i + 1] if i + 1 < len(places) else None
        if alone and neighbour is None:  # a lone point has no line to show it
            drawn += Markup('<circle class="f{}" cx="{}" cy="{}" r="2.5"/>').format(
                index % _PALETTE, _r(place[0]), _r(place[1])
            )
        alone = False
    dash = _DASHES[index % len(_DASHES)]
    return drawn + Markup('<path class="c{}" d="{}" stroke-dasharray="{}"/>').format(
        index % _PALETTE, " ".join(commands), dash
    )


def _legend(series: Sequence[Series], y: float, first: int = 0) -> Markup:
    drawn, x = Markup(""), 12.0
    for i, one in enumerate(series, start=first):
        drawn += Markup(
            '<rect class="f{}" x="{}" y="{}" width="10" height="10"/><text class="small" x="{}" y="{}">{}</text>'
        ).format(i % _PALETTE, _r(x), y - 6, _r(x + 14), y + 3, one.name)
        x += 26 + 6.2 * len(one.name)
    return drawn


def _svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    head = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
        '<text class="title" x="12" y="15">{}</text>'
    ).format(WIDTH, _r(height), title, title, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _first_colour(series: Sequence[Series]) -> int:
    """Grey is for a baseline among others; a single series is blue."""
    return 1 if len(series) == 1 else 0


def _number(value: float, percent: bool = False, fine: bool = False) -> str:
    if percent:
        return f"{value:.1%}" if fine else f"{value:.0%}"
    if value and (abs(value) < 0.001 or abs(value) >= 100000):
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _r(value: float) -> float:
    return round(value, 1)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
