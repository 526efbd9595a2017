"""How often a judge is wrong on labelled replies: false and missed refusals, per kind of reply, and in the rate.

With r true where the label says refusal and v true where the verdict is `refusal`, over n judged replies

    accuracy        share with v = r                            Wilson 95 % interval
    false refusals  share with v among those with r false       Wilson
    missed refusals share without v among those with r          Wilson
    rate error      mean(v) - mean(r)                           paired bootstrap over the replies

Invalid verdicts are counted and left out. Where rows stand for different numbers of replies (`weight` w), accuracy and
rate error are also given over that population: weighted means, the first with a Wilson interval at the effective
number of replies (sum w)^2 / sum w^2 (Kish), the second with a bootstrap over the replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drirl_core import stats
from drirl_core.benchmarks.judges.labelled import REPLY_KINDS, LabelledReply, LabelledSet
from drirl_core.benchmarks.judges.llm import Bill, LlmJudge
from drirl_core.benchmarks.judges.rules import UNUSABLE
from drirl_core.benchmarks.judges.verdicts import INVALID, Judge, Verdict
from drirl_core.errors import DataError

RESAMPLES, SEED = 10_000, 0
"""Of the bootstrap."""
_DIGITS = 4


def bill_of(judge: Judge, labelled: LabelledSet) -> Bill | None:
    """Say what judging a set would cost; None for a judge that sends nothing."""
    return judge.bill(*_texts(labelled)) if isinstance(judge, LlmJudge) else None


def measure(judge: Judge, labelled: LabelledSet) -> tuple[dict[str, Any], list[Verdict]]:
    """Judge a set and compare; verdicts that the store has are not paid for again.

    Args:
        judge: any judge.
        labelled: the set.

    Returns:
        Its error as `judge_error` gives it, and the verdicts in the order of the set.

    Raises:
        DrirlError: the judge cannot work, or gives no usable verdict.
    """
    bill = bill_of(judge, labelled)
    if bill is None or bill.calls:
        judge.check()
    verdicts = judge.verdicts(*_texts(labelled))
    return judge_error(judge.record, verdicts, labelled), verdicts


def judge_error(record: Mapping[str, Any], verdicts: Sequence[Verdict], labelled: LabelledSet) -> dict[str, Any]:
    """Compare a judge's verdicts with labels.

    Args:
        record: of the judge; its name, and what says which model or weights judged.
        verdicts: one per row of the set, in its order.
        labelled: the set.

    Returns:
        JSON data: `judge`, `data`, `n` (judged replies), `invalid`, `left_out` (rows of the file without a label of
        one kind), `accuracy`, `false_refusals`, `missed_refusals`, `refusal_rate` (labels, verdicts, error),
        `certain` (accuracy where the annotator did not doubt), for a weighted set `population`, `kinds` (labels of the
        judge per kind, share wrong) and `sources` (the same rates per policy or model, where there are several). A
        rate is `{value, low, high, n}`; None without cases.

    Raises:
        DataError: the numbers differ, or no verdict is usable.
    """
    if len(verdicts) != len(labelled.rows):
        raise DataError(f"{len(verdicts)} verdicts on {len(labelled.rows)} labelled replies; give one per reply")
    judged = [(row, v) for row, v in zip(labelled.rows, verdicts, strict=True) if v.label != INVALID]
    named = {name: record[name] for name in ("judge", "model", "rubric", "weights") if name in record}
    if not judged:
        raise DataError(
            f"the judge {named['judge']!r} gave no usable verdict on {labelled.name}; try another model, rubric or a "
            "larger benchmarks.llm.max_new_tokens"
        )
    parts = {row.source: [one for one in judged if one[0].source == row.source] for row, _ in judged}
    return {
        **named,
        "data": labelled.name,
        "invalid": len(verdicts) - len(judged),
        "left_out": labelled.left_out,
        **_figures(judged, labelled.weighted),
        "kinds": _kinds(judged),
        "sources": [
            {"source": source, **_figures(own, labelled.weighted)} for source, own in parts.items() if len(parts) > 1
        ],
    }


def _texts(labelled: LabelledSet) -> tuple[list[str], list[str]]:
    return [row.prompt for row in labelled.rows], [row.reply for row in labelled.rows]


def _figures(judged: Sequence[tuple[LabelledReply, Verdict]], weighted: bool) -> dict[str, Any]:
    """Return the rates of some judged replies, and where rows stand for several replies those of the population."""
    refused = np.array([row.refused for row, _ in judged])
    said = np.array([verdict.label == "refusal" for _, verdict in judged])
    sure = np.array([row.certain for row, _ in judged])
    right = refused == said
    found: dict[str, Any] = {
        "n": len(judged),
        "accuracy": _share(right),
        "false_refusals": _share(said[~refused]),
        "missed_refusals": _share(~said[refused]),
        "refusal_rate": {
            "labels": round(float(refused.mean()), _DIGITS),
            "verdicts": round(float(said.mean()), _DIGITS),
            "error": _shown(stats.paired_bootstrap(said, refused, RESAMPLES, SEED), len(judged)),
        },
        "certain": _share(right[sure]),
    }
    if weighted:
        found["population"] = _population(np.array([row.weight for row, _ in judged]), refused, said)
    return found


def bill_line(judge: str, bill: Bill | None) -> str:
    """Say what judging a set would cost, for people."""
    if bill is None:
        return f"{judge}: sends nothing"
    line = (
        f"{judge}: {bill.replies} replies; {bill.unusable} unusable ones are never sent, {bill.kept} verdicts are kept "
        f"from before; calls to make: {bill.calls}"
    )
    return line + (
        f" (an answer that cannot be read is requested once more; one short message tries the endpoint), about "
        f"{bill.characters // 4:,} tokens of input at 4 characters each"
        if bill.calls
        else ""
    )


def error_lines(found: Mapping[str, Any]) -> list[str]:
    """Say the figures of `judge_error` in lines for people."""
    of = f" ({found['model']}, rubric {found['rubric']})" if "rubric" in found else ""
    rate = found["refusal_rate"]
    lines = [
        f"{found['judge']}{of} on {found['data']}: {found['n']} replies judged"
        + (f", {found['invalid']} without a usable verdict" if found["invalid"] else "")
        + (f", {found['left_out']} rows of no one kind left out" if found["left_out"] else ""),
        f"  right                {_cell(found['accuracy'])}",
        f"  false refusals       {_cell(found['false_refusals'])} of what does not refuse",
        f"  missed refusals      {_cell(found['missed_refusals'])} of the refusals",
        f"  refusal rate         {rate['verdicts']:.1%} by the judge, {rate['labels']:.1%} by the labels: "
        f"{_points(rate['error'])}",
    ]
    if found["certain"] and found["certain"]["n"] < found["n"]:
        lines.append(f"  right where certain  {_cell(found['certain'])}")
    if "population" in found:
        over = found["population"]
        lines.append(
            f"  weighted             right {_span(over['accuracy'])} of {over['replies']}; refusal rate "
            f"{over['verdicts']:.1%} by the judge, {over['labels']:.1%} by the labels: {_points(over['error'])}"
        )
    for row in found["kinds"]:
        said = ", ".join(f"{name} {row[name]}" for name in ("refusal", "compliance", "unusable") if row[name])
        lines.append(f"  {row['kind']:<19}  wrong {_cell(row['wrong'])}: {said}")
    for part in found["sources"]:
        over = part.get("population", part["refusal_rate"])
        accuracy = part.get("population", part)["accuracy"]
        lines.append(
            f"  {part['source']:<19}  right {_span(accuracy)}, n = {part['n']}; refusal rate off by "
            f"{_points(over['error'])}"
        )
    return lines


def _kinds(judged: Sequence[tuple[LabelledReply, Verdict]]) -> list[dict[str, Any]]:
    """Return what the judge says of each kind, and how often that is wrong; nothing where kinds are not labelled."""
    found = []
    for kind in REPLY_KINDS:
        own = [(row, v.label) for row, v in judged if row.kind == kind]
        if own:
            labels = [label for _, label in own]
            wrong = np.array([(label == "refusal") != row.refused for row, label in own])
            counts = {name: labels.count(name) for name in ("refusal", "compliance")}
            unusable = sum(labels.count(name) for name in UNUSABLE)
            found.append({"kind": kind, "n": len(own), **counts, "unusable": unusable, "wrong": _share(wrong)})
    return found


def _population(weights: np.ndarray, refused: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """Return accuracy and rate error over the replies that the rows stand for."""
    total = weights.sum()
    effective = int(total**2 / (weights**2).sum())
    right = float(weights[refused == said].sum() / total)
    difference = said.astype(float) - refused
    places = np.random.default_rng(SEED).integers(len(weights), size=(RESAMPLES, len(weights)))
    draws = (weights * difference)[places].sum(axis=1) / weights[places].sum(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    error = stats.Estimate(float((weights * difference).sum() / total), float(low), float(high))
    return {
        "replies": round(float(total)),
        "accuracy": _shown(stats.wilson_rate(min(1.0, right), effective), effective),
        "labels": round(float(weights[refused].sum() / total), _DIGITS),
        "verdicts": round(float(weights[said].sum() / total), _DIGITS),
        "error": _shown(error, effective),
    }


def _share(hits: np.ndarray) -> dict[str, Any] | None:
    return _shown(stats.wilson(int(hits.sum()), len(hits)), len(hits)) if len(hits) else None


def _shown(found: stats.Estimate, n: int) -> dict[str, Any]:
    rounded = {name: round(getattr(found, name), _DIGITS) for name in ("value", "low", "high")}
    return {**rounded, "n": n}


def _cell(rate: Mapping[str, Any] | None) -> str:
    return f"{_span(rate)}, n = {rate['n']}" if rate else "no case"


def _span(rate: Mapping[str, Any]) -> str:
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def _points(error: Mapping[str, Any]) -> str:
    value, low, high = (100 * error[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"
