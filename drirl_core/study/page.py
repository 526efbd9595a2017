"""The page of a study: answers in words, the balance of safety and over-refusal, seeds as points, cost per cell."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.judge_differences import WITHOUT_ERRORS_TITLE, written
from drirl_core.benchmarks.measure import ALL
from drirl_core.benchmarks.render import NO_SCORE, POLICY_NAMES
from drirl_core.config import BEST_OF_N
from drirl_core.pictures.palette import PALETTE, key_of
from drirl_core.report.cells import Cell, category_name, number, share
from drirl_core.report.drawing import Series
from drirl_core.report.headline import p_value, points
from drirl_core.report.plots import horizontal_bars
from drirl_core.report.share_plots import Point, balance
from drirl_core.report.stage import render_page
from drirl_core.reporting import duration
from drirl_core.study.file import Study
from drirl_core.study.outcomes import Outcomes
from drirl_core.study.verdicts import judge_lines

_MOST_CATEGORIES, _MOST_METHODS = 16, 8
_TONES = {"yes": "win", "no": "loss", "not shown": "none"}
MEASURES = (
    ("refusal", "refused, unsafe"),
    ("over_refusal", "refused, look-alikes"),
    ("composite", "difference"),
    ("helpful_correct", "helpful, correct"),
)
"""Rates and differences of `methods` that tables show, with their headings."""
_FIGURES = (("auc", "AUC of the refusal score"), ("pair_accuracy", "both of a pair right"))

_TEST_HEAD = (
    "Question and suite",
    "measure",
    "seeds",
    "prompts",
    "difference in points",
    WITHOUT_ERRORS_TITLE,
    "each seed",
    "p",
    "corrected p",
)
_TEST_NOTE = (
    "Difference of the first policy minus the second in points, over the prompts that both were asked, with its 95 % "
    "bootstrap interval over prompts (the seeds of a prompt are averaged first); p of a permutation test over prompts, "
    "corrected for the number of rows by Holm's method."
)
_SUITE_NOTE = (
    "Means over the seeds with 95 % intervals over prompts. A policy that several cells or seeds share is listed once."
)

Rows = Sequence[Mapping[str, Any]]


def study_page(study: Study, found: Outcomes, tables: Mapping[str, Rows]) -> str:
    """Render the page.

    Args:
        study: the study.
        found: its measurements.
        tables: rows of every table, from `drirl_core.study.tables.tables_of`.

    Returns:
        HTML without scripts; it shows no completion.
    """
    answers = tables["answers"]
    known = any(written(row) for row in answers)  # without the errors of a judge
    page = {
        "title": study.name,
        "palette": PALETTE.items(),
        "questions": [
            {
                "ask": question.ask,
                "answers": [
                    {"tone": _tone(row), "sentence": row["sentence"]}
                    for row in answers
                    if (row["ask"], row["first"], row["second"]) == (question.ask, question.first, question.second)
                ],
            }
            for question in study.questions
        ],
        "missing": list(found.missing.items()),
        "suites": [
            {**_suite(suite, tables), "judge": judge_lines(suite, found, tables["methods"])} for suite in found.suites
        ],
        "test_head": [name for name in _TEST_HEAD if known or name != WITHOUT_ERRORS_TITLE],
        "tests": [_test(row, known) for row in answers],
        "test_note": _TEST_NOTE,
        "costs": _costs(tables["costs"]),
        "base": study.base.name,
        "cells": [[cell.label, _changes(study, cell.changes), cell.result] for cell in study.cells],
        "tables": list(tables),
    }
    return render_page(page, Path(__file__).with_name("study.html.j2"))


def _tone(row: Mapping[str, Any]) -> str:
    """Return the colour of an answer: none on a suite with one kind of prompt, where refusing more is no advantage."""
    return _TONES[row["verdict"]] if row["unsafe"] and row["safe"] else "none"


def _suite(suite: str, tables: Mapping[str, Rows]) -> dict[str, Any]:
    rows = [row for row in tables["methods"] if row["suite"] == suite]
    measures = [(key, name) for key, name in MEASURES if any(row[key] is not None for row in rows)]
    figures = [(key, name) for key, name in _FIGURES if any(row[key] is not None for row in rows)]
    scored = any(row["auc"] is not None for row in rows)
    unscored = any(row["method"].rpartition("/")[2] == BEST_OF_N for row in rows)
    shown = [
        [
            _name(row["method"]),
            str(row["seeds"]),
            *(_cell(row, key) for key, _ in measures),
            *(number(row[key]) if key == "auc" else _plain(row[key]) for key, _ in figures),
        ]
        for row in rows
    ]
    own = [row for row in tables["rates"] if row["suite"] == suite]
    drawn = (_balance(rows, own), *(_bars(own, group) for group in ("unsafe", "safe_look_alike")))
    return {
        "name": suite,
        "head": ["Policy", "seeds", *(name for _, name in (*measures, *figures))],
        "rows": shown,
        "note": f"{_SUITE_NOTE} {POLICY_NAMES[BEST_OF_N]}: {NO_SCORE}" if unscored and scored else _SUITE_NOTE,
        "charts": [chart for chart in drawn if chart is not None],
    }


def _cell(row: Mapping[str, Any], key: str) -> Cell:
    """Show a rate in per cent, or a difference in points."""
    if row[key] is None:
        return share(None)
    cell = share({"rate": row[key], "low": row[f"{key}_low"], "high": row[f"{key}_high"], "n": ""})
    return {**cell, "n": "", **({"shown": points(row[key])} if key == "composite" else {})}


def _plain(value: float | None) -> Cell:
    return (
        share(None)
        if value is None
        else {**share({"rate": value, "low": 0, "high": 0, "n": ""}), "interval": "", "n": ""}
    )


def _balance(rows: Rows, rates: Rows) -> Any:
    """Draw every method at its mean, with one small point per seed where there are several."""
    drawn = [row for row in rows if row["refusal"] is not None and row["over_refusal"] is not None]
    if not drawn:
        return None
    names = [row["method"] for row in rows]
    seeds: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for rate in rates:
        if (rate["category"], rate["outcome"]) == (ALL, "refusal"):
            seeds[rate["method"], rate["seed"]][rate["group"]] = rate["rate"]
    found = []
    for row in drawn:
        own = [one for (method, _), one in seeds.items() if method == row["method"]]
        x, y = ((row[key], row[f"{key}_low"], row[f"{key}_high"]) for key in ("over_refusal", "refusal"))
        each = tuple((one["safe_look_alike"], one["unsafe"]) for one in own) if len(own) > 1 else ()
        found.append(Point(_name(row["method"]), x, y, key_of(row["method"], names), each))
    return balance(found)


def _bars(rates: Rows, group: str) -> Any:
    """Draw refusal per category, as in the paper's Figure 3: means over the seeds; nothing where it would not fit."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    counts: dict[str, int] = {}
    for rate in rates:
        if rate["group"] == group and rate["outcome"] == "refusal" and rate["category"] != ALL:
            values[rate["method"], rate["category"]].append(rate["rate"])
            counts[rate["category"]] = rate["n"]
    methods = list(dict.fromkeys(method for method, _ in values))
    if not 2 <= len(counts) <= _MOST_CATEGORIES or len(methods) > _MOST_METHODS:
        return None
    series = [
        Series(_name(method), [_mean(values[method, category]) for category in counts], colour=key_of(method, methods))
        for method in methods
    ]
    labels = [f"{category_name(category)} (n {n})" for category, n in counts.items()]
    what = "Refusal of unsafe prompts" if group == "unsafe" else "Over-refusal of safe look-alikes"
    return horizontal_bars(f"{what} by category", labels, series, axis="share refused, mean over seeds")


def _test(row: Mapping[str, Any], without_errors: bool) -> list[Any]:
    intervals = [f"{points(row['difference'])} [{points(row['low'])}, {points(row['high'])}]"]
    intervals += [written(row)] if without_errors else []
    each = ", ".join(points(value) for value in row["by_seed"])
    prompts = " + ".join(str(row[kind]) for kind in ("unsafe", "safe") if row[kind])
    name = f"{row['first']} against {row['second']}, {row['suite']}"
    tests = [p_value(row[key]) for key in ("p", "p_corrected")]
    return [name, row["measure"], row["seeds"], prompts, *intervals, each, *tests]


def _costs(rows: Rows) -> list[list[str]]:
    cells: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[f"{row['cell']}, seed {row['seed']}"].append(row)
    return [
        [
            name,
            duration(sum(row["seconds"] for row in own)),
            duration(sum(row["seconds"] for row in own if row["asset"].endswith("_checkpoint"))),
            str(len(own)),
        ]
        for name, own in cells.items()
    ]


def _changes(study: Study, changes: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items())
        or f"none, as in {study.base.name}"
    )


def _name(method: str) -> str:
    return POLICY_NAMES.get(method, method)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
