"""Charts as inline SVG: no pictures to load, text that scales and selects, colours that follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drirl_core.report.drawing import (
    LEGEND_LINE,
    WIDTH,
    Scale,
    Series,
    colour_of,
    finite,
    frame,
    legend_of,
    picture,
    rounded,
    shown,
    ticks,
)

_DASHES = ("", "6 3", "2 3", "8 3 2 3")


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
    legend, rows = legend_of(series, 30) if len(series) > 1 else (Markup(""), 0)
    bar, gap, top, left, right = 9, 20, 28 + LEGEND_LINE * rows, 12, 44
    height = top + len(labels) * (gap + bar * len(series)) + 40
    largest = max((v for s in series for v in (*s.values, *(s.high or ())) if finite(v)), default=1.0)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else ticks(0.0, largest or 1.0)
    scale = Scale(marks[0], marks[-1], left, WIDTH - right)
    bottom = height - 34
    parts = [legend]
    parts += [_grid_x(scale(m), top, bottom, shown(m, percent)) for m in marks]
    y = top
    for g, label in enumerate(labels):
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(left, y + 13, label))
        y += gap - 3
        for s, one in enumerate(series):
            parts.append(_bar(scale, one, (g, colour_of(series, s)), (y, bar), percent))
            y += bar
        y += 3
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (left + WIDTH - right) / 2, height - 4, axis
        )
    )
    return picture(title, height, parts)


def lines(
    title: str,
    x: Sequence[float],
    series: Sequence[Series],
    *,
    axes: tuple[str, str],
    cover: Sequence[float] = (),
    legend: bool = True,
) -> Markup:
    """Draw lines over steps, with a band where a series has an interval.

    Args:
        title: title of the chart.
        x: positions of the values, ascending.
        series: lines; NaN breaks a line.
        axes: names of the horizontal and of the vertical axis.
        cover: values that the vertical axis must reach as well, such as 0, or the ends of charts to compare with.
        legend: whether several lines are named in the chart; `keys` names them once for several charts.
    """
    named, rows = legend_of(series, 30) if legend and len(series) > 1 else (Markup(""), 0)
    left, right, top, bottom = 54, 12, 32 + LEGEND_LINE * rows, 40
    height = top + 132 + bottom
    every = [v for s in series for v in (*s.values, *(s.low or ()), *(s.high or ())) if finite(v)] + list(cover)
    marks = ticks(min(every, default=0.0), max(every, default=1.0))
    up = Scale(marks[0], marks[-1], height - bottom, top)
    along = Scale(
        min(x, default=0), max(x, default=1), left, WIDTH - right, integers=all(float(a).is_integer() for a in x)
    )
    parts = [named, *frame(along, up, marks, (top, height - bottom), axes)]
    for i, one in enumerate(series):
        colour = colour_of(series, i)
        if one.low is not None and one.high is not None:
            parts.append(_band(colour, along, up, x, one))
        places = [(along(a), up(b)) if finite(b) else None for a, b in zip(x, one.values, strict=True)]
        parts.append(_path(one.name, colour, _DASHES[i % len(_DASHES)], places))
    return picture(title, height, parts)


def keys(series: Sequence[Series]) -> list[tuple[Markup, str]]:
    """Return a piece of each line of a chart and its name, for one legend beside several charts."""
    drawn = Markup(
        '<svg class="key" viewBox="0 0 28 10" role="img" aria-label="line of {}"><path class="c-{}" d="M1 5 L27 5" '
        'stroke-dasharray="{}"/></svg>'
    )
    return [
        (drawn.format(one.name, colour_of(series, i), _DASHES[i % len(_DASHES)]), one.name)
        for i, one in enumerate(series)
    ]


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
    along = Scale(low, high, left, WIDTH - right)
    count_marks = [m for m in ticks(0, max(*counts, 1), 3) if m == int(m)]
    up = Scale(0, count_marks[-1], height - bottom, top)
    parts = frame(along, up, count_marks, (top, height - bottom), (x_label, "rows"))
    width = (WIDTH - right - left) / bins
    for i, count in enumerate(counts):
        parts.append(
            Markup('<rect class="f-accent" x="{}" y="{}" width="{}" height="{}"/>').format(
                rounded(left + i * width + 0.5),
                rounded(up(count)),
                rounded(width - 1),
                rounded(height - bottom - up(count)),
            )
        )
    if marker is not None and finite(marker):
        parts.append(
            Markup('<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                rounded(along(marker)), top, height - bottom
            )
        )
    return picture(title, height, parts)


def _bar(scale: Scale, one: Series, at: tuple[int, str], place: tuple[float, float], percent: bool) -> Markup:
    (group, colour), (y, thick) = at, place
    value = one.values[group]
    if not finite(value):
        return Markup("")
    end = scale(value)
    drawn = Markup('<rect class="f-{}" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>').format(
        colour,
        scale.start,
        y,
        rounded(max(0.0, end - scale.start)),
        thick - 1.5,
        one.name,
        shown(value, percent, fine=True),
    )
    if one.low is not None and one.high is not None and finite(one.low[group]) and finite(one.high[group]):
        end = scale(one.high[group])
        middle = y + thick / 2 - 0.75
        drawn += Markup('<line class="error" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            rounded(scale(one.low[group])), rounded(end), middle, middle
        )
    return drawn + Markup('<text class="small" x="{}" y="{}">{}</text>').format(
        rounded(max(end, scale(value)) + 4), y + thick - 1.5, shown(value, percent)
    )


def _grid_x(x: float, top: float, bottom: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="small" x="{0}" y="{3}" text-anchor="middle">{4}</text>'
    ).format(rounded(x), top, bottom, bottom + 13, label)


def _band(colour: str, along: Scale, up: Scale, x: Sequence[float], one: Series) -> Markup:
    rows = [
        (a, lo, hi) for a, lo, hi in zip(x, one.low or (), one.high or (), strict=True) if finite(lo) and finite(hi)
    ]
    edge = [(along(a), up(hi)) for a, _, hi in rows] + [(along(a), up(lo)) for a, lo, _ in reversed(rows)]
    return Markup('<polygon class="f-{} band" points="{}"/>').format(
        colour, " ".join(f"{rounded(a)},{rounded(b)}" for a, b in edge)
    )


def _path(name: str, colour: str, dash: str, places: Sequence[tuple[float, float] | None]) -> Markup:
    drawn, commands, alone = Markup(""), [], True
    for i, place in enumerate(places):
        if place is None:
            alone = True
            continue
        commands.append(f"{'M' if alone else 'L'}{rounded(place[0])} {rounded(place[1])}")
        neighbour = places[i + 1] if i + 1 < len(places) else None
        if alone and neighbour is None:  # a lone point has no line to show it
            drawn += Markup('<circle class="f-{}" cx="{}" cy="{}" r="2.5"/>').format(
                colour, rounded(place[0]), rounded(place[1])
            )
        alone = False
    return drawn + Markup('<path class="c-{}" d="{}" stroke-dasharray="{}"><title>{}</title></path>').format(
        colour, " ".join(commands), dash, name
    )
