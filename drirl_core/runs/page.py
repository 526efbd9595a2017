"""The comparison of two results as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.judge_differences import WITHOUT_ERRORS_TITLE, written
from drirl_core.report.cells import category_name
from drirl_core.report.headline import p_value, points

OUTCOMES = {"refusal": "refusal of", "correct": "correct on"}
"""How an outcome is written before the name of a group."""


def comparison_page(found: Mapping[str, Any]) -> str:
    """Render a comparison; every text is escaped, nothing is fetched, and there are no scripts.

    Args:
        found: from `drirl_core.runs.compare.compare`.

    Returns:
        HTML. Unsafe prompts are behind a click, and answers to them behind a second one.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    filters = {"words": category_name, "percent": percent, "points": points, "p": p_value, "without_errors": written}
    environment.filters |= filters
    template = Path(__file__).with_name("compare.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(found=found, outcomes=OUTCOMES, without_errors=WITHOUT_ERRORS_TITLE)


def percent(rate: Mapping[str, float]) -> str:
    """Write a rate with its interval: `81.0 % [70.2, 88.9]`."""
    return f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
