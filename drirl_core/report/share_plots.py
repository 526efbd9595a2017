"""Charts of two shares against each other, both from 0 to 100 %: operating points and ROC curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from drirl_core.report.drawing import LEGEND_LINE, WIDTH, Scale, Series, frame, legend_of, picture, rounded


@dataclass(frozen=True)
class Point:
    """A named point with an interval in both directions.

    Args:
        name: shown in the legend.
        x: value, low, high.
        y: value, low, high.
        colour: key of its colour in the palette.
        each: (x, y) of the single values that it is the mean of, drawn small.
    """

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    colour: str = "accent"
    each: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Curve:
    """A named ROC curve with its operating point.

    Args:
        name: shown in the legend.
        points: (x, y) shares from (0, 0) to (1, 1); empty where the operating point stands alone.
        at: the operating point.
        colour: key of its colour in the palette.
        dash: dashes of its line; empty for a solid one.
    """

    name: str
    points: Sequence[tuple[float, float]]
    at: tuple[float, float]
    colour: str
    dash: str = ""


def scatter(title: str, points: Sequence[Point], *, x_label: str, y_label: str) -> Markup:
    """Draw named shares against each other with their intervals, both axes from 0 to 100 %."""
    along, up, height, parts = _shares(points, 210, (x_label, y_label))
    for point in points:
        (x, x0, x1), (y, y0, y1) = point.x, point.y
        error = Markup('<line class="error" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts.append(error.format(rounded(along(x0)), rounded(along(x1)), rounded(up(y)), rounded(up(y))))
        parts.append(error.format(rounded(along(x)), rounded(along(x)), rounded(up(y0)), rounded(up(y1))))
        parts += [
            Markup('<circle class="f-{}" cx="{}" cy="{}" r="2.5"/>').format(
                point.colour, rounded(along(one[0])), rounded(up(one[1]))
            )
            for one in point.each
        ]
        parts.append(
            Markup('<circle class="f-{}" cx="{}" cy="{}" r="6"><title>{}: {:.0%}, {:.0%}</title></circle>').format(
                point.colour, rounded(along(x)), rounded(up(y)), point.name, x, y
            )
        )
    return picture(title, height, parts)


def balance(points: Sequence[Point]) -> Markup:
    """Draw the refusal of unsafe prompts against that of safe look-alikes, one point per policy."""
    return scatter(
        "Refusal against over-refusal, best at top left",
        points,
        x_label="over-refusal of safe look-alikes",
        y_label="refusal of unsafe prompts",
    )


def roc(title: str, curves: Sequence[Curve], *, x_label: str, y_label: str) -> Markup:
    """Draw ROC curves with their operating points, both axes from 0 to 100 %."""
    along, up, height, parts = _shares(curves, 214, (x_label, y_label))
    for curve in curves:
        places = " L".join(f"{rounded(along(x))} {rounded(up(y))}" for x, y in curve.points)
        if places:
            parts.append(
                Markup('<path class="c-{}" d="M{}" stroke-dasharray="{}"/>').format(curve.colour, places, curve.dash)
            )
        parts.append(
            Markup('<circle class="f-{}" cx="{}" cy="{}" r="5"><title>{}: {:.0%}, {:.0%}</title></circle>').format(
                curve.colour, rounded(along(curve.at[0])), rounded(up(curve.at[1])), curve.name, *curve.at
            )
        )
    return picture(title, height, parts)


def _shares(
    named: Sequence[Point] | Sequence[Curve], inner: int, labels: tuple[str, str]
) -> tuple[Scale, Scale, int, list[Markup]]:
    """Return both scales from 0 to 100 %, the height of the picture, and its legend and frame.

    Args:
        named: what the legend names.
        inner: height of the area inside the frame, in pixels.
        labels: of the horizontal and the vertical axis.
    """
    legend, rows = legend_of([Series(one.name, (), colour=one.colour) for one in named], 30)
    left, right, top, bottom = 46, 16, 32 + LEGEND_LINE * rows, 42
    height = top + inner + bottom
    along, up = Scale(0, 1, left, WIDTH - right), Scale(0, 1, height - bottom, top)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return along, up, height, [legend, *frame(along, up, marks, (top, height - bottom), labels, percent=True)]
