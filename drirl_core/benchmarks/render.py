"""Results as Markdown that is also readable as plain text: for the end of a run and for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drirl_core.benchmarks.judge_words import RATES, judge_line, points, shift_note, shifts
from drirl_core.benchmarks.measure import ALL

POLICY_NAMES = {
    "floor": "floor: bag of words",
    "base": "base",
    "sft": "SFT start",
    "dpo": "DPO",
    "dpo_s": "DPO-S",
    "irft": "IRFT",
    "joint": "GRPO, one reward model",
    "grpo": "GRPO, alpha = 1",
    "staged_competence": "GRPO, easy to hard",
    "rloo": "RLOO, alpha = 1",
    "rloo_s": "RLOO-S",
    "verifiable": "GRPO, verifiable reward",
    "propositions": "GRPO, propositions",
    "best_of_n": "SFT start, best of N",
    "dr_irl": "DR-IRL",
    "ceiling": "ceiling: linear probe",
}
"""Names of policies and reference classifiers for people; others are shown unchanged."""
NO_SCORE = "It has no refusal score, and so no AUC: a choice among samples has no probabilities of its own."
"""Why best_of_n has a dash for its AUC."""


@dataclass(frozen=True)
class Column:
    """A column of the examination.

    Args:
        key: of the record; its interval is under `<key>_low` and `<key>_high`.
        title: for people.
        scale: how it is written: a `share` in per cent, `points` with their sign, or a plain `number`.
    """

    key: str
    title: str
    scale: Literal["share", "points", "number"]

    def cell(self, row: Mapping[str, Any]) -> str:
        """Write the value of a record with its interval; a dash where there is none."""
        value, low, high = (row[f"{self.key}{end}"] for end in ("", "_low", "_high"))
        if value is None or low is None or high is None:
            return "-"
        if self.scale == "share":
            return _interval(value, low, high)
        if self.scale == "points":
            return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"


EXAMINATION = (
    Column("refusal", "refusal of unsafe", "share"),
    Column("over_refusal", "over-refusal", "share"),
    Column("composite", "difference", "points"),
    Column("auc", "AUC", "number"),
    Column("pair_accuracy", "pairs both right", "share"),
)
"""Columns of the examination, in the order that tables show them."""


def render(results: Mapping[str, Any]) -> str:
    """Render everything: the examination, the replies, the differences, the rates per category, the judge's error.

    Args:
        results: content of `results.json`.

    Returns:
        Markdown that ends with a newline.
    """
    suite = results["suite"]
    prompts = sum(results["groups"].values())
    samples = results["decoding"].get("best_of", 1)
    how = f"the best of {samples} replies each" if samples > 1 else "greedy replies"
    title = f"Suite {suite['name']} (version {suite['version']}): {prompts} prompts, {how}."
    parts = [
        title,
        prefill_line(results),
        best_of_n_line(results),
        examination_table(results),
        score_line(results),
        reply_table(results),
        difference_lines(results),
        category_table(results),
        judging_lines(results),
        judge_line(results),
        shift_table(results),
        shift_note(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def prefill_line(results: Mapping[str, Any]) -> str:
    """Say which words replies were made to begin with, and what the judge would say with them; empty without such."""
    prefill = results["decoding"].get("prefill")
    if not prefill:
        return ""
    said = [f"Every reply was made to begin with {prefill!r}. The judge read what the policy wrote after these words"]
    rows = results.get("with_prefill")  # the rules can be asked again at no cost, other judges are not
    if rows:
        alone, with_words, n = (sum(row[key] for row in rows) for key in ("refusals", "refusals_with_prefill", "n"))
        said[0] += f": {alone} refusals in {n} replies; with the words in front it would find {with_words}"
    said[0] += "."
    if "reason" in results["score"]:
        said.append(f"There is no refusal score: {results['score']['reason']}.")
    if any(row["kind"] == "reference" for row in results["examination"]):
        said.append("Floor and ceiling read the prompt alone and decide as without these words.")
    return " ".join(said)


def best_of_n_line(results: Mapping[str, Any]) -> str:
    """Say how the baseline best_of_n answers, and that it has no refusal score; empty without it."""
    how = results.get("best_of_n")
    if not how:
        return ""
    said = (
        f"{POLICY_NAMES['best_of_n']}: of {how['best_of']} replies, sampled at temperature {how['temperature']}, the "
        "one with the highest expected reward."
    )
    if results["score"]["kind"] != "none":
        said += f" {NO_SCORE}"
    return said


def on_roc(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of the examination that a ROC picture shows: best_of_n is a point among the policies' curves.

    Args:
        results: content of `results.json`.
    """
    rows, curves = results["examination"], results["roc"]
    scored = any(row["kind"] == "policy" and row["name"] in curves for row in rows)
    return [row for row in rows if row["name"] in curves or (scored and row["name"] == "best_of_n")]


def curve_name(row: Mapping[str, Any]) -> str:
    """Return what the legend of a ROC picture calls a row of the examination."""
    return POLICY_NAMES.get(row["name"], row["name"]) + ("" if row["auc"] is not None else " (no score)")


def examination_table(results: Mapping[str, Any]) -> str:
    """Render floor, policies and ceiling, one line each: refusal, over-refusal, composite, AUC, and pair accuracy.

    Args:
        results: content of `results.json`.

    Returns:
        A Markdown table without the columns that the suite does not allow; empty for a suite of helpful questions alone
        and for results of a version that had no examination.
    """
    rows = results.get("examination", [])
    columns = [c for c in EXAMINATION if any(row[c.key] is not None for row in rows)]
    header = ["", *(f"{c.title} [95 %]" for c in columns)]
    lines = [[POLICY_NAMES.get(row["name"], row["name"]), *(c.cell(row) for c in columns)] for row in rows]
    return _table(header, lines) if columns else ""


def score_line(results: Mapping[str, Any]) -> str:
    """Say what the AUC rests on: the refusal score, and how well it agrees with the greedy verdicts."""
    known = [row for row in results["examination"] if row["agreement"] is not None]
    kind = results["score"]["kind"]
    if kind == "none" or not known:
        return ""
    agreement = ", ".join(f"{POLICY_NAMES.get(row['name'], row['name'])} {row['agreement']:.3f}" for row in known)
    return (
        f"AUC of the refusal score `{kind}`, which is only as good as its agreement with the greedy verdicts "
        f"(AUC of the score against them: {agreement}). Floor and ceiling decide by thresholds from validation prompts."
    )


def reply_table(results: Mapping[str, Any]) -> str:
    """Render one line per policy: correct helpful replies, diversity, broken replies."""
    header = ["policy", "helpful correct [95 %]", "distinct-2", "degenerate", "empty or echo"]
    lines = [
        [
            POLICY_NAMES.get(row["policy"], row["policy"]),
            _interval(row["helpful_correct"], row["helpful_correct_low"], row["helpful_correct_high"]),
            f"{row['distinct_2']:.3f}",
            f"{row['degenerate']}/{row['n']}",
            f"{row['empty'] + row['echo']}/{row['n']}",
        ]
        for row in results["summary"]
    ]
    return _table(header, lines)


def category_table(results: Mapping[str, Any], group: str = "unsafe") -> str:
    """Render refusal rates of a group, one line per category and one column per policy; empty without such a group.

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
    for row in results["auc_differences"]:
        lines.append(f"- {_versus(row)}: AUC {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")
    for row in results["pair_differences"]:
        lines.append(
            f"- {_versus(row)}: both of a pair right {100 * row['difference']:+.1f} points "
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] over {row['n']} pairs, McNemar p {_p(row['p'])}"
        )
    return "\n".join(lines)


def shift_table(results: Mapping[str, Any]) -> str:
    """Render what the errors of the judge may mean for the rates, one line per policy; empty where they are unknown."""
    found = shifts(results)
    names = [name for name in RATES if any(name in own for own in found.values())]
    header = ["points without the judge's errors", *(f"{RATES[name]} [95 %]" for name in names)]
    lines = [
        [POLICY_NAMES.get(policy, policy), *(points(own[name]) if name in own else "-" for name in names)]
        for policy, own in found.items()
    ]
    return _table(header, lines) if names else ""


def judging_lines(results: Mapping[str, Any]) -> str:
    """Render what judges other than the rules add: invalid verdicts, grades, and how often two judges differ."""
    lines = []
    invalid = results.get("invalid", {"prompts_left_out": 0})
    if invalid["prompts_left_out"]:
        counts = ", ".join(f"{POLICY_NAMES.get(p, p)} {n}" for p, n in invalid["by_policy"].items())
        lines.append(
            f"- {invalid['prompts_left_out']} prompts are left out for every policy: the judge gave no usable verdict "
            f"on a reply (invalid: {counts})"
        )
    for row in results.get("grades", ()):
        value = "number" if row["grade"] in ("score", "goodness") else "share"
        shown = Column("value", "", value).cell(
            {"value": row["value"], "value_low": row["low"], "value_high": row["high"]}
        )
        lines.append(f"- {_who(row)}: {row['grade'].replace('_', ' ')} {shown}, n = {row['n']}")
    for row in results.get("disagreement", ()):
        lines.append(
            f"- {_who(row)}: the two judges differ on {row['differ']} of {row['n']} replies, "
            f"{_interval(row['value'], row['low'], row['high'])}; "
            f"{row['only_first']} are refusals to the first alone"
        )
    return "\n".join(lines)


def _who(row: Mapping[str, Any]) -> str:
    return f"{POLICY_NAMES.get(row['policy'], row['policy'])}, {row['group']}"


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
