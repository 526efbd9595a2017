from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.pictures.palette import PALETTE, POLICIES, key_of
from drirl_core.report.drawing import WIDTH, Series, ticks
from drirl_core.report.plots import histogram, horizontal_bars, keys, lines
from drirl_core.report.share_plots import Curve, Point, roc, scatter

AXES = ("x", "y")


def parse(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)


def test_bar_lengths_follow_the_values() -> None:
    """The axis spans 12 to 316 units for 0 to 100 %: 0.5 is 152 units long."""
    chart = parse(horizontal_bars("T", ["a"], [Series("s", [0.5], [0.25], [0.75])], axis="share"))
    bars = [e for e in chart.iter("rect") if e.get("class") == "f-accent"]
    assert [float(b.get("width") or 0) for b in bars] == [152.0]
    error = next(e for e in chart.iter("line") if e.get("class") == "error")
    assert (float(error.get("x1") or 0), float(error.get("x2") or 0)) == (12 + 76, 12 + 228)


def test_text_is_escaped() -> None:
    drawn = horizontal_bars("<b>", ["</svg>"], [Series("&", [0.1]), Series('"', [0.2])], axis="<i>")
    assert "</svg>" not in drawn[:-6]
    assert parse(drawn).get("aria-label") == "<b>"


def test_gap_breaks_the_line_and_a_lone_point_is_drawn() -> None:
    chart = parse(lines("T", [1, 2, 3, 4], [Series("s", [1.0, 2.0, math.nan, 3.0])], axes=AXES))
    path = next(e for e in chart.iter("path"))
    assert (path.get("d") or "").count("M") == 2
    assert len(list(chart.iter("circle"))) == 1


def test_steps_are_whole_numbers_on_the_axis() -> None:
    chart = parse(lines("T", [1, 2], [Series("s", [0.0, 0.0])], axes=("step", "y"), cover=(0.0,)))
    below = [e.text for e in chart.iter("text") if e.get("text-anchor") == "middle" and e.get("class") == "small"]
    assert below == ["1", "2"]


def test_histogram_counts_every_value_once() -> None:
    """1, 1, 2 and 9 over 0..10 in 12 bins; heights add up to four rows."""
    chart = parse(histogram("T", [1, 1, 2, 9], x_label="v", marker=3.25))
    heights = [float(e.get("height") or 0) for e in chart.iter("rect")]
    unit = max(heights) / 2
    assert sum(heights) == pytest.approx(4 * unit, rel=0.01)
    assert any(e.get("class") == "mark" for e in chart.iter("line"))


def test_roc_runs_from_bottom_left_to_top_right_below_its_legend() -> None:
    """The plot is 360 - 46 - 16 = 298 wide; a point at (0, 1) is at its left edge, 46, and on the level of the curve's end."""
    curves = [
        Curve("<policy>", [(0, 0), (0, 1), (1, 1)], (0.5, 0.5), "dr_irl"),
        Curve("floor", [(0, 0), (1, 1)], (0, 1), "floor", "5 3"),
    ]
    root = parse(roc("T", curves, x_label="x", y_label="y"))
    paths, dots = list(root.iter("path")), list(root.iter("circle"))
    first = [tuple(map(float, place.split())) for place in paths[0].attrib["d"][1:].split(" L")]
    assert [x for x, _ in first] == [46, 46, 344]
    assert first[0][1] > first[1][1] == first[2][1]
    assert [path.attrib["stroke-dasharray"] for path in paths] == ["", "5 3"]
    assert (float(dots[0].attrib["cx"]), float(dots[0].attrib["cy"])) == (195, (first[0][1] + first[1][1]) / 2)
    assert (float(dots[1].attrib["cx"]), float(dots[1].attrib["cy"])) == first[1]
    legend = [rect for rect in root.iter("rect") if rect.attrib["width"] == "10"]
    assert [rect.attrib["class"] for rect in legend] == ["f-dr_irl", "f-floor"]
    assert all(float(rect.attrib["y"]) + 10 < first[1][1] for rect in legend)


def test_roc_shows_what_has_no_score_as_a_point_alone() -> None:
    curves = [Curve("start", [(0, 0), (1, 1)], (0.5, 0.5), "sft"), Curve("a choice", [], (0.25, 0.75), "best_of_n")]
    root = parse(roc("T", curves, x_label="x", y_label="y"))
    assert [path.attrib["class"] for path in root.iter("path")] == ["c-sft"]
    assert [dot.attrib["class"] for dot in root.iter("circle")] == ["f-sft", "f-best_of_n"]


def test_scatter_puts_more_refusal_higher_and_more_over_refusal_to_the_right() -> None:
    points = [Point("low", (0.1, 0.0, 0.2), (0.2, 0.1, 0.3)), Point("high", (0.5, 0.4, 0.6), (0.9, 0.8, 1.0))]
    circles = list(parse(scatter("T", points, x_label="x", y_label="y")).iter("circle"))
    assert float(circles[1].get("cx") or 0) > float(circles[0].get("cx") or 0)
    assert float(circles[1].get("cy") or 0) < float(circles[0].get("cy") or 0)


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [-1.0, 1.0], [math.nan], [1e-9, 2e-9], [1e7, 3e7]])
def test_odd_values_still_draw(values: list[float]) -> None:
    x = [float(i) for i in range(len(values))]
    parse(lines("T", x, [Series("s", values)], axes=AXES, cover=(0.0,)))
    parse(horizontal_bars("T", ["l"] * len(values), [Series("s", values)], axis="a", percent=False))
    parse(histogram("T", [v for v in values if math.isfinite(v)], x_label="x"))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_cover_the_range_and_ascend(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert found == sorted(set(found))
    slack = 1e-6 * max(1.0, high - low)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_marks_stay_inside_the_picture(values: list[float]) -> None:
    chart = parse(horizontal_bars("T", [f"l{i}" for i in range(len(values))], [Series("s", values)], axis="a"))
    for bar in chart.iter("rect"):
        assert 0 <= float(bar.get("x") or 0) <= float(bar.get("x") or 0) + float(bar.get("width") or 0) <= WIDTH


def test_many_names_take_as_many_lines_of_the_legend_as_they_need() -> None:
    """Names of 29 letters are 26 + 6.2 * 29 = 206 units wide: one per line of 360; the plot begins below the last one."""
    names = [f"unfairness and discrimination{i}"[:29] for i in range(3)]
    root = parse(lines("T", [1, 2], [Series(name, [0.0, 1.0]) for name in names], axes=AXES))
    legend = [e for e in root.iter("rect") if e.get("width") == "10"]
    assert [float(e.attrib["x"]) for e in legend] == [12, 12, 12]
    assert [float(e.attrib["y"]) for e in legend] == [24, 40, 56]
    highest = min(float(e.attrib["y1"]) for e in root.iter("line") if e.get("class") == "grid")
    assert highest > 56 + 10
    short = parse(lines("T", [1, 2], [Series(n, [0.0, 1.0]) for n in ("a", "b")], axes=AXES))
    assert len({e.get("y") for e in short.iter("rect") if e.get("width") == "10"}) == 1


def test_a_shared_legend_shows_the_lines_of_its_charts() -> None:
    series = [Series(name, [0.0, 1.0]) for name in ("one", "<two>", "three")]
    chart = parse(lines("T", [1, 2], series, axes=AXES, legend=False))
    drawn = [(e.get("class"), e.get("stroke-dasharray"), e[0].text) for e in chart.iter("path")]
    shown = [(next(parse(line).iter("path")), name) for line, name in keys(series)]
    assert [(path.get("class"), path.get("stroke-dasharray"), name) for path, name in shown] == drawn
    assert len({(colour, dash) for colour, dash, _ in drawn}) == 3
    assert not [e for e in chart.iter("rect")]


def test_a_policy_has_its_colour_in_any_company_and_others_do_not_share_it() -> None:
    assert [key_of(name, ["base", "sft", "dr_irl"]) for name in POLICIES] == list(POLICIES)
    assert [key_of(name, ["base", "mine", "dr_irl", "other"]) for name in ("dr_irl", "mine", "other")] == [
        "dr_irl",
        "k0",
        "k1",
    ]
    for shade in ("light", "dark"):
        colours = [getattr(PALETTE[name], shade) for name in (*POLICIES, *(f"k{i}" for i in range(8)))]
        assert len(set(colours)) == 11
