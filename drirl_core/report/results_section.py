"""The results of the page: who refuses what, how the policies differ, and samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drirl_core.benchmarks.judge_words import RATES, judge_line, shift_note, shifts
from drirl_core.benchmarks.judges.kinds import KINDS, MEASURED_KINDS, kind_rows
from drirl_core.benchmarks.judges.rules import UNUSABLE
from drirl_core.benchmarks.measure import ALIGNED, ALL
from drirl_core.benchmarks.render import (
    EXAMINATION,
    POLICY_NAMES,
    Column,
    best_of_n_line,
    curve_name,
    judging_lines,
    on_roc,
    prefill_line,
    score_line,
)
from drirl_core.benchmarks.suites import PAIRED
from drirl_core.pictures.palette import key_of
from drirl_core.report.cells import EMPTY, Cell, category_name, number, share
from drirl_core.report.drawing import Series
from drirl_core.report.headline import group_rate, p_value, paired_interval, points, start_policy, verdict
from drirl_core.report.plots import horizontal_bars
from drirl_core.report.samples import Sample, choose_samples
from drirl_core.report.share_plots import Curve, Point, balance, roc
from drirl_core.text.chain_of_draft import cut_draft

HARMLESS = frozenset({"safe_look_alike", "helpful"})
"""Groups of prompts that should be answered."""

_MOST_CATEGORIES = 16
_DASHES = {"floor": "2 3", "ceiling": "6 3"}
"""Lines of the references, which have one colour; those of policies are solid."""
_HEADLINES = (
    ("unsafe", "rates", "refusal of unsafe"),
    ("safe_look_alike", "rates", "over-refusal"),
    ("helpful", "helpful", "helpful correct"),
)


def suite_section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables and charts of one suite.

    Args:
        results: content of its `results.json`.
    """
    head, rows = _examination(results)
    drawn = (_roc(results), _balance(results), _bars(results, "unsafe"), _bars(results, "safe_look_alike"))
    tests = (_composite_rows, _pair_rows, _auc_rows, _difference_rows)
    return {
        "name": f"{results['suite']['name']} (version {results['suite']['version']}, {sum(results['groups'].values())} "
        "prompts)",
        "verdict": verdict(results),
        "head": head,
        "rows": rows,
        "note": _examination_note(results),
        "reply_head": ["policy", "helpful correct", "distinct-2", "broken", "tokens per reply"],
        "reply_rows": [
            [_name(policy), share(group_rate(results, policy, "helpful", "helpful")), *_replies(results, policy)]
            for policy in results["policies"]
        ],
        "reply_note": "Broken: empty, echoed or looping replies, which are neither refusal nor help.",
        "judge": judge_section(results),
        "judging": [line.removeprefix("- ") for line in judging_lines(results).splitlines()],
        "tests": [row for rows_of in tests for row in rows_of(results)],
        "charts": [chart for chart in drawn if chart],
    }


def judge_section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return who gave the verdicts of a suite, how often they are wrong, and what that may mean for the rates.

    Args:
        results: content of its `results.json`, with what is recorded of its judge.
    """
    found = shifts(results)
    names = [name for name in RATES if any(name in own for own in found.values())]
    rows = [
        [_name(policy), *(_points(*dataclasses.astuple(own[name])) if name in own else dict(EMPTY) for name in names)]
        for policy, own in found.items()
    ]
    head = ["points without the judge's errors", *(RATES[name] for name in names)]
    return {"text": judge_line(results).replace("`", ""), "head": head, "rows": rows, "note": shift_note(results)}


def kinds_section(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of the kinds of reply, which are read from the wording when the page is written.

    Args:
        rows: rows of `replies.parquet` of a suite.
    """
    names = ["policy", "prompts", *(category_name(kind) for kind in KINDS)]
    cells = [
        [_name(found["policy"]), category_name(found["group"]), *(_kind_share(found, kind) for kind in KINDS)]
        for found in kind_rows(rows)
    ]
    note = (
        "Kinds of reply by wording, of the usable replies: a safe completion declines or redirects and offers a safe "
        f"way on. Against {MEASURED_KINDS['n']} human-labelled replies ({MEASURED_KINDS['data']}) the kind is right on "
        f"{MEASURED_KINDS['accuracy']:.1%} [{MEASURED_KINDS['low']:.1%}, {MEASURED_KINDS['high']:.1%}]: read it as a "
        "hint. It decides no rate above."
    )
    return {"kind_head": names, "kind_rows": cells, "kind_note": note}


def _kind_share(found: Mapping[str, Any], kind: str) -> Cell:
    value, low, high = found[kind] or (None, None, None)
    return share({"rate": value, "low": low, "high": high, "n": found["n"]})


def _examination(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return head and rows of the table from floor to ceiling, with the columns that the suite allows."""
    found = results["examination"]
    columns = [column for column in EXAMINATION if any(row[column.key] is not None for row in found)]
    head = ["", *(column.title for column in columns)]
    return head, [[_name(row["name"]), *(_measured(row, column) for column in columns)] for row in found]


def _measured(row: Mapping[str, Any], column: Column) -> Cell:
    value, low, high = (row[f"{column.key}{end}"] for end in ("", "_low", "_high"))
    if column.scale == "share":
        return share({"rate": value, "low": low, "high": high, "n": row[f"{column.key}_n"]})
    if column.scale == "points" and value is not None:
        return _points(value, low, high)
    return number(value, low, high)


def _examination_note(results: Mapping[str, Any]) -> str:
    note = (
        "Rates with Wilson 95 % intervals and the number of prompts; over-refusal: refusals of safe prompts that look "
        "unsafe; difference: refusal minus over-refusal. Floor: a bag of words of the training prompts. Ceiling: a "
        "linear probe of the frozen base model's hidden states. "
    )
    if any(row["pair_accuracy"] is not None for row in results["examination"]):
        note += "Pairs both right: the unsafe prompt is refused and its safe twin answered. "
    lines = (note + score_line(results).replace("`", ""), prefill_line(results), best_of_n_line(results))
    return " ".join(line for line in lines if line)


def tiles(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the numbers at the top of the page: from the start to the aligned policy."""
    start = start_policy(results)
    found = []
    for group, table, name in _HEADLINES:
        before, after = group_rate(results, start, group, table), group_rate(results, ALIGNED, group, table)
        if before is None or after is None or before["rate"] is None or after["rate"] is None:
            continue
        interval = f"[{100 * after['low']:.0f}, {100 * after['high']:.0f}]"
        note = f"{_name(start)} to {_name(ALIGNED)}, n {after['n']}, 95 % {interval}"
        base = group_rate(results, "base", group, table)
        if start != "base" and base is not None and base["rate"] is not None:
            note += f"; base {100 * base['rate']:.0f} %"
        found.append({"name": name, "value": f"{100 * before['rate']:.0f} → {100 * after['rate']:.0f} %", "note": note})
    return found


def sample_section(suite: str, rows: Sequence[Mapping[str, Any]], policies: Sequence[str]) -> list[dict[str, Any]]:
    """Return samples that are safe to show, with the policies' names for people."""
    answers = [{**row, "reply": cut_draft(row["reply"])} for row in rows]
    samples = choose_samples(answers, HARMLESS, policies)
    numbers: dict[str, int] = {}
    return [_sample(suite, sample, numbers) for sample in samples]


def _sample(suite: str, sample: Sample, numbers: dict[str, int]) -> dict[str, Any]:
    numbers[sample.group] = numbers.get(sample.group, 0) + 1
    return {
        "suite": suite,
        "group": category_name(sample.group),
        "number": numbers[sample.group],
        "unsafe": sample.unsafe,
        "prompt": sample.prompt,
        "replies": [(_name(policy), reply, label) for policy, reply, label in sample.replies],
    }


def _replies(results: Mapping[str, Any], policy: str) -> list[Cell | str]:
    row = next(r for r in results["replies"] if (r["policy"], r["group"]) == (policy, ALL))
    return [
        number(row["distinct_2"]),
        f"{sum(row[label] for label in UNUSABLE)} of {row['n']}",
        f"{row['mean_tokens']:.1f}",
    ]


def _composite_rows(results: Mapping[str, Any]) -> list[list[Any]]:
    pairs = " + ".join(
        str(results["groups"][group]) for group in ("unsafe", "safe_look_alike") if group in results["groups"]
    )
    return [
        [
            f"{_name(r['policy'])} against {_name(r['against'])}: refusal minus over-refusal (permutation)",
            _points(r["difference"], r["low"], r["high"]),
            p_value(r["p"]),
            pairs,
        ]
        for r in results["composite"]
    ]


def _difference_rows(results: Mapping[str, Any]) -> list[list[Any]]:
    rows = []
    for r in results["differences"]:
        what = "correct replies" if r["outcome"] == "correct" else f"refusal of {category_name(r['group'])}"
        interval = paired_interval(r["only_policy"], r["only_against"], r["n"])
        rows.append(
            [
                f"{_name(r['policy'])} against {_name(r['against'])}: {what} (McNemar)",
                _points(r["difference"], *interval),
                p_value(r["p"]),
                str(r["n"]),
            ]
        )
    return rows


def _points(value: float, low: float, high: float) -> Cell:
    return {"value": value, "shown": points(value), "interval": f"[{points(low)}, {points(high)}]", "n": ""}


def _pair_rows(results: Mapping[str, Any]) -> list[list[Any]]:
    return [
        [
            f"{_name(r['policy'])} against {_name(r['against'])}: both of a pair right (McNemar)",
            _points(r["difference"], r["low"], r["high"]),
            p_value(r["p"]),
            str(r["n"]),
        ]
        for r in results["pair_differences"]
    ]


def _auc_rows(results: Mapping[str, Any]) -> list[list[Any]]:
    pairs = " + ".join(str(results["groups"][group]) for group in PAIRED if group in results["groups"])
    return [
        [
            f"{_name(r['policy'])} against {_name(r['against'])}: AUC, in hundredths",
            _points(r["difference"], r["low"], r["high"]),
            "",
            pairs,
        ]
        for r in results["auc_differences"]
    ]


def _roc(results: Mapping[str, Any]) -> Any:
    curves = [
        Curve(
            curve_name(row),
            [(x, y) for x, y in results["roc"].get(row["name"], ())],
            (row["over_refusal"], row["refusal"]),
            key_of(row["name"], results["policies"]),
            _DASHES.get(row["name"], ""),
        )
        for row in on_roc(results)
    ]
    if not curves:
        return None
    return roc(
        "ROC of the refusal scores",
        curves,
        x_label="over-refusal (dots: operating points)",
        y_label="refusal of unsafe prompts",
    )


def _bars(results: Mapping[str, Any], group: str) -> Any:
    """Draw refusal per category, or nothing when there is one category or too many for a chart."""
    rates = {(r["category"], r["policy"]): r for r in results["rates"] if r["group"] == group}
    categories = [c for c in dict.fromkeys(c for c, _ in rates) if c != ALL]
    if not 2 <= len(categories) <= _MOST_CATEGORIES:
        return None
    series = []
    for policy in results["policies"]:
        own = [rates[c, policy] for c in categories]
        numbers = ([_number(r[key]) for r in own] for key in ("rate", "low", "high"))
        series.append(Series(_name(policy), *numbers, key_of(policy, results["policies"])))
    labels = [f"{category_name(c)} (n {rates[c, results['policies'][0]]['n']})" for c in categories]
    what = "Refusal of unsafe prompts" if group == "unsafe" else "Over-refusal of safe look-alikes"
    return horizontal_bars(f"{what} by category", labels, series, axis="share refused, with 95 % intervals")


def _balance(results: Mapping[str, Any]) -> Any:
    found = []
    for policy in results["policies"]:
        over, refusal = group_rate(results, policy, "safe_look_alike"), group_rate(results, policy, "unsafe")
        if over is None or refusal is None or over["rate"] is None or refusal["rate"] is None:
            return None
        x, y = ((r["rate"], r["low"], r["high"]) for r in (over, refusal))
        found.append(Point(_name(policy), x, y, key_of(policy, results["policies"])))
    return balance(found)


def _name(policy: str) -> str:
    return POLICY_NAMES.get(policy, policy)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
