"""A small picture of the graph: one box per stage, the arrows that no longer path already implies.

Drawn from top to bottom, in three lanes where that is enough, so that its text is readable at the width of a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from drirl_core.graph.layout import Graph
from drirl_core.graph.stages import STAGES

SOURCES = "sources"
_BOX, _HEIGHT, _LANE, _ROW, _MARGIN = 156, 36, 172, 58, 8
_STYLE = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
rect { fill: #f6f7f9; stroke: #9aa3ad; } rect.heavy { fill: #d9ecec; stroke: #2f6f73; }
text { fill: #1a1d21; text-anchor: middle; } .small { font-size: 10.5px; fill: #5d6670; }
path { fill: none; stroke: #7a828c; stroke-width: 1.3; marker-end: url(#tip); }
#tip path { fill: #7a828c; stroke: none; }
@media (prefers-color-scheme: dark) {
  rect { fill: #1d2126; stroke: #5f6872; } rect.heavy { fill: #1d3a3b; stroke: #6fc0c4; }
  text { fill: #e8eaed; } .small { fill: #a2abb5; } path { stroke: #9aa3ad; } #tip path { fill: #9aa3ad; }
}
"""


@dataclass(frozen=True)
class Place:
    """Where a box is: its row from the top, and its lane; 0 is the middle."""

    row: int
    lane: int


def stage_edges(graph: Graph) -> dict[str, list[str]]:
    """Return, for each stage and the sources, the stages that are made from it and from nothing that it leads to.

    Args:
        graph: the assets; what one of them is made from is an edge between their stages.

    Returns:
        Targets in the order of the graph, by stage.
    """
    found: dict[str, set[str]] = {name: set() for name in (SOURCES, *graph.stages)}
    for node in graph.nodes.values():
        for name in node.inputs:
            stage = graph.nodes[name].stage if name in graph.nodes else SOURCES
            if stage != node.stage:
                found[stage].add(node.stage)
    return {
        start: [end for end in found if end in ends and not _longer_path(start, end, found)]
        for start, ends in found.items()
    }


def places(edges: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    """Put stages into rows by their longest path from the sources, and the longest chain into the middle lane.

    Args:
        edges: targets by stage, in topological order.

    Returns:
        Places, no two alike, such that an edge that skips rows runs down a lane in which nothing else is.
    """
    rows = dict.fromkeys(edges, 0)
    before: dict[str, str] = {}
    for start, ends in edges.items():
        for end in ends:
            if rows[start] + 1 > rows[end]:
                rows[end], before[end] = rows[start] + 1, start
    deepest = max(rows, key=lambda name: rows[name])
    main = {deepest}
    while deepest in before:
        deepest = before[deepest]
        main.add(deepest)
    found = {name: Place(rows[name], 0) for name in edges if name in main}
    taken = {(place.row, place.lane) for place in found.values()}
    for name in edges:
        if name not in main:
            last = max((rows[end] for end in edges[name]), default=rows[name] + 1)
            lane = next(lane for lane in _lanes() if not {(row, lane) for row in range(rows[name], last)} & taken)
            taken |= {(row, lane) for row in range(rows[name], last)}
            found[name] = Place(rows[name], lane)
    return found


def graph_picture(graph: Graph) -> str:
    """Draw the graph of a configuration as SVG.

    Args:
        graph: its assets.

    Returns:
        A complete SVG file.
    """
    edges = stage_edges(graph)
    where = places(edges)
    lanes = [place.lane for place in where.values()]
    width = (max(lanes) - min(lanes)) * _LANE + _BOX + 2 * _MARGIN
    height = max(place.row for place in where.values()) * _ROW + _HEIGHT + 2 * _MARGIN
    left = {name: _MARGIN + (place.lane - min(lanes)) * _LANE for name, place in where.items()}
    top = {name: _MARGIN + place.row * _ROW for name, place in where.items()}
    title = "The asset graph: " + ", ".join(map(_words, edges))
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{}" viewBox="0 0 {} {}" role="img">').format(
            width, height, width, height
        ),
        Markup("<title>{}</title><style>{}</style>").format(title, Markup(_STYLE)),  # noqa: S704 - our own text
        Markup(
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        ),
    ]
    for start, ends in edges.items():
        for end in ends:
            points = ((left[start], top[start]), (left[end], top[end]))
            parts.append(Markup('<path d="{}"/>').format(_arrow(*points)))
    for name in edges:
        parts.append(_box(name, _note(name, graph), left[name], top[name]))
    return "\n".join([*parts, Markup("</svg>"), ""])


def _longer_path(start: str, end: str, edges: Mapping[str, set[str]]) -> bool:
    """Say whether an edge is implied by a path over other stages."""
    waiting, seen = [other for other in edges[start] if other != end], set()
    while waiting:
        name = waiting.pop()
        if name == end:
            return True
        if name not in seen:
            seen.add(name)
            waiting += edges[name]
    return False


def _lanes() -> Iterator[int]:
    lane = 1
    while True:
        yield -lane
        yield lane
        lane += 1


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Go down the lane of the start to just above the end, then over to it."""
    (x, y), (to_x, to_y) = ((left + _BOX / 2, top) for left, top in (start, end))
    y += _HEIGHT
    if x == to_x:
        return f"M{x:g} {y:g} L{x:g} {to_y - 1:g}"
    bend = to_y - (_ROW - _HEIGHT) + 2
    curve = f"C{x:g} {to_y - 6:g} {to_x:g} {bend:g} {to_x:g} {to_y - 1:g}"
    return f"M{x:g} {y:g} L{x:g} {bend:g} {curve}"


def _box(name: str, note: str, left: float, top: float) -> Markup:
    heavy = Markup(' class="heavy"') if name in STAGES and STAGES[name].heavy else ""
    return Markup(
        '<rect{} x="{}" y="{}" width="{}" height="{}" rx="7"/><text x="{x}" y="{}">{}</text>'
        '<text class="small" x="{x}" y="{}">{}</text>'
    ).format(heavy, left, top, _BOX, _HEIGHT, top + 15, _words(name), top + 29, note, x=left + _BOX // 2)


def _note(name: str, graph: Graph) -> str:
    count = len(graph.sources) if name == SOURCES else len(graph.of(name))
    kind = ("file" if name == SOURCES else "asset") + ("" if count == 1 else "s")
    per = {"category": "one per category", "harm_category": "one per category", "suite": "one per suite"}
    each = per.get(STAGES[name].per, "") if name in STAGES else ""
    return f"{count} {kind}" + (f", {each}" if each and count > 1 else "")


def _words(name: str) -> str:
    return name.replace("_", " ")
