"""How numbers with intervals look in the page's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Cell = dict[str, Any]

EMPTY: Cell = {"value": None, "shown": "", "interval": "", "n": ""}


def share(record: Mapping[str, Any] | None, digits: int = 1) -> Cell:
    """Show a rate record (`rate`, `low`, `high`, `n`) in per cent, with its interval and n.

    Args:
        record: the rate; None for an empty cell.
        digits: decimals of the ends of the interval.
    """
    if record is None or record["rate"] is None:
        return dict(EMPTY)
    interval = f"[{100 * record['low']:.{digits}f}, {100 * record['high']:.{digits}f}]"
    return {
        "value": record["rate"],
        "shown": f"{100 * record['rate']:.1f} %",
        "interval": interval,
        "n": f"n {record['n']}",
    }


def number(value: float | None, low: float | None = None, high: float | None = None, digits: int = 3) -> Cell:
    """Show a number, with its interval where there is one."""
    if value is None or not math.isfinite(value):
        return dict(EMPTY)
    interval = f"[{low:.{digits}f}, {high:.{digits}f}]" if low is not None and high is not None else ""
    return {"value": value, "shown": f"{value:.{digits}f}", "interval": interval, "n": ""}


def category_name(name: str) -> str:
    """Write the identifier of a category, group or stage as words."""
    return name.replace("look_alike", "look-alike").replace("_", " ")
