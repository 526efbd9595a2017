"""Results as Markdown that is also readable as plain text: for the end of a run and for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drirl_core.benchmarks.measure import ALL

POLICY_NAMES = {"base": "base", "sft": "SFT start", "dr_irl": "DR-IRL"}
"""Names of the policies for people; others are shown as they are."""


def render(results: Mapping[str, Any]) -> str:
    """Render everything: the summary, the differences, the refusal rates per category, and the judge's error.

    Args:
        results: content of `results.json`.

    Returns:
        Markdown that ends with a newline.
    """
    suite = results["suite"]
    title = f"Suite {suite['name']} (version {suite['version']}): {sum(results['groups'].values())} prompts, greedy replies."
    parts = [title, summary_table(results), difference_lines(results), category_table(results), judge_line(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_table(results: Mapping[str, Any]) -> str:
    """Render one line a policy: refusal of unsafe prompts, over-refusal, correct helpful replies, diversity, babble."""
    header = [
        "policy",
        "refusal of unsafe [95 %]",
        "over-refusal [95 %]",
        "helpful correct [95 %]",
        "distinct-2",
        "degenerate",
        "empty or echo",
    ]
    lines = [
        [
            POLICY_NAMES.get(row["policy"], row["policy"]),
            *(
                _interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
                for name in ("refusal", "over_refusal", "helpful_correct")
            ),
            f"{row['distinct_2']:.3f}",
            f"{row['degenerate']}/{row['n']}",
            f"{row['empty'] + row['echo']}/{row['n']}",
        ]
        for row in results["summary"]
    ]
    return _table(header, lines)


def category_table(results: Mapping[str, Any], group: str = "unsafe") -> str:
    """Render refusal rates of a group, one line a category and one column a policy; empty without such a group.

    Args:
        results: content of `results.json`.
        group: `unsafe`, `safe_look_alike` or `helpful`.
    """
    rates = {(r["category"], r["policy"]): r for r in results["rates"] if r["group"] == group}
    categories = list(dict.fromkeys(category for category, _ in rates))
    if not categories:
        return ""
    policies = results["policies"]
    header = [f"refusal of {group}", "n", *(POLICY_NAMES.get(p, p) for p in policies)]
    lines = []
    for category in [*(c for c in categories if c != ALL), ALL]:
        own = [rates[category, policy] for policy in policies]
        lines.append([category, str(own[0]["n"]), *(_interval(r["rate"], r["low"], r["high"]) for r in own)])
    return _table(header, lines)


def difference_lines(results: Mapping[str, Any]) -> str:
    """Render the paired differences of the aligned policy as a list; empty with one policy."""
    lines = []
    for row in results["composite"]:
        lines.append(
            f"- {_versus(row)}: refusal minus over-refusal {100 * row['difference']:+.1f} points "
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], permutation p {_p(row['p'])}"
        )
    for row in results["differences"]:
        what = "refusal of" if row["outcome"] == "refusal" else "correct on"
        lines.append(
            f"- {_versus(row)}: {what} {row['group']} {100 * row['difference']:+.1f} points "
            f"({row['only_policy']} against {row['only_against']} of {row['n']} prompts), McNemar p {_p(row['p'])}"
        )
    return "\n".join(lines)


def judge_line(results: Mapping[str, Any]) -> str:
    """Name the judge and its measured error."""
    judge = results["judge"]
    return (
        f"Judge `{judge['judge']}`: accuracy {judge['accuracy']:.3f} [{judge['low']:.3f}, {judge['high']:.3f}], "
        f"precision {judge['precision']:.3f}, recall {judge['recall']:.3f} against human labels ({judge['data']}, n = {judge['n']})."
    )


def _versus(row: Mapping[str, Any]) -> str:
    return (
        f"{POLICY_NAMES.get(row['policy'], row['policy'])} against {POLICY_NAMES.get(row['against'], row['against'])}"
    )


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with columns padded to one width, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]

    def joined(line: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    return "\n".join([joined(cells[0]), f"|{rule}|", *map(joined, cells[1:])])
