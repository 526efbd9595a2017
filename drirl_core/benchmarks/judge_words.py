"""What results say of their judges: who gave the verdicts, how often they are wrong, and what that may mean for a rate.

The error of the rules comes with the package, that of the embedded judge with its weights; both are in `results.json`.
That of a judge behind an endpoint is what `drirl judge` recorded of it. Whoever shows results adds the record under
`judge_errors`: measuring a judge changes no verdict, so no benchmark becomes stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drirl_core import stats
from drirl_core.benchmarks.judges.trust import MeasuredError, of_measurement, of_record
from drirl_core.config import Config
from drirl_core.store.artifacts import ArtifactStore

RATES = {"refusal": "refusal of unsafe", "over_refusal": "over-refusal"}
"""The refusal rates of a summary, with their names for people."""
_COMMAND = (
    "`drirl judge LABELLED FILE --judge llm` measures it (LABELLED: labelled replies; FILE: the configuration of this "
    "run, with the same --set)"
)


def with_errors(results: dict[str, Any], config: Config, store: ArtifactStore) -> dict[str, Any]:
    """Return results with what is recorded of their judge behind an endpoint; unchanged where there is none.

    Args:
        results: content of `results.json`.
        config: names the judges of these results.
        store: holds the record.

    Raises:
        ArtifactError: the record cannot be read.
    """
    from drirl_core.benchmarks.judges.recorded import recorded_errors

    known = recorded_errors(config, store)
    return results if known is None else {**results, "judge_errors": known}


def measured_errors(results: Mapping[str, Any], judge: Mapping[str, Any]) -> list[MeasuredError]:
    """Return what is known of how often a judge is wrong, the figure to quote first.

    Args:
        results: content of `results.json`, with `judge_errors` where they were looked up.
        judge: its record: `judge` or `second_judge` of the results.
    """
    if judge["judge"] == "llm":
        return [of_measurement(found) for found in results.get("judge_errors") or ()]
    known = of_record(judge)
    return [known] if known else []


def judge_line(results: Mapping[str, Any]) -> str:
    """Name the judge and its measured error; and a second judge with its error, where there is one.

    Args:
        results: content of `results.json`, with `judge_errors` where they were looked up.
    """
    line = _named(results, results["judge"], "Judge", _said)
    if results.get("second_judge"):
        line += f" {_named(results, results['second_judge'], 'Second judge', _said)}"
    return line


def accuracy_line(results: Mapping[str, Any]) -> str:
    """Name the judge of the rates, with its sensitivity and specificity where they are known.

    Args:
        results: as for `judge_line`.
    """
    return _named(results, results["judge"], "Judge", _shares_said)


def judge_name(judge: Mapping[str, Any]) -> str:
    """Name a judge with what makes its verdicts differ from those of another one of its name.

    Args:
        judge: its record: `judge` or `second_judge` of the results.
    """
    return ", ".join(
        str(judge[key]) for key in ("judge", "model", "rubric", "safety_policy", "weights") if key in judge
    )


def shifts(results: Mapping[str, Any]) -> dict[str, dict[str, stats.Estimate]]:
    """Return by how much rates would differ without the errors of the judge.

    It is assumed to err as often as on the replies that it was measured on.

    Args:
        results: as for `judge_line`.

    Returns:
        By policy and key of `RATES` the shift with its 95 % interval; rates that are not known, and all where the error
        is not known, are left out.
    """
    known = measured_errors(results, results["judge"])
    found: dict[str, dict[str, stats.Estimate]] = {}
    for row in results["summary"] if known else ():
        measured = [name for name in RATES if row[name] is not None]
        own = {name: known[0].shift(row[name], row[f"{name}_n"]) for name in measured}
        if kept := {name: shift for name, shift in own.items() if shift is not None}:
            found[row["policy"]] = kept
    return found


def shift_note(results: Mapping[str, Any]) -> str:
    """Say how to read the shifts, or why there are none; empty where the error of the judge is not known."""
    known = measured_errors(results, results["judge"])
    if not known:
        return ""
    if not shifts(results):
        reason = "These figures do not say" if known[0].growth is None else "They are known too badly to say"
        return f"{reason} what that means for the rates."
    return (
        "Points by which rates would differ without the errors of the judge, if it errs here as often as on "
        f"{known[0].data}; on other replies it may err more or less often. The intervals hold how well its errors are "
        "known and how they fall by chance, not the choice of prompts. A difference of two rates would keep its sign "
        f"and be {known[0].growth:.2f} times as large, as far as neither ends at 0 or 100 %."
    )


def points(found: stats.Estimate) -> str:
    """Write a shift in points with its interval: `+7.8 [+5.0, +10.6]`."""
    value, low, high = (100 * end for end in (found.value, found.low, found.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _named(
    results: Mapping[str, Any], judge: Mapping[str, Any], role: str, say: Callable[[MeasuredError, bool], str]
) -> str:
    told = f", told the safety policy {judge['safety_policy']}" if "safety_policy" in judge else ""
    of = f" ({judge['model']}, rubric {judge['rubric']}{told})" if "rubric" in judge else ""
    who, known = f"{role} `{judge['judge']}`{of}", measured_errors(results, judge)
    if known:
        without = " It was measured without the safety policy." if told else ""
        return f"{who}: {'; '.join(say(one, judge['judge'] != 'llm') for one in known)}.{without}"
    if judge["judge"] != "llm":
        return f"{who}: its error on labelled replies was not measured."
    if "judge_errors" in results:
        return f"{who}: its error on labelled replies was not measured; {_COMMAND}."
    return f"{who}: its error on labelled replies is no part of this result; {_COMMAND}, and the report shows it."


def _said(found: MeasuredError, human: bool) -> str:
    """Say one measurement: how often it is wrong, in which way, and how far off its rate is there."""
    parts = [f"wrong on {_percent(found.wrong)} of {_set(found, human)}"]
    if found.false_share is not None:
        parts.append(f"{found.false_share:.1%} of what does not refuse is called a refusal")
    if found.missed_share is not None:
        parts.append(f"{found.missed_share:.1%} of the refusals are missed")
    if found.off is not None:
        parts.append(f"its refusal rate there is {points(found.off)} points off")
    return ", ".join(parts)


def _shares_said(found: MeasuredError, human: bool) -> str:
    """Say one measurement by what makes differences shrink; as `_said` where that is not known."""
    seen, spared = found.sensitivity, found.specificity
    if seen is None or spared is None or found.refusals is None:
        return _said(found, human)
    n = "effective n" if found.stands_for else "n"  # of rows with weights
    return (
        f"sensitivity {_percent(seen)} ({n} {found.refusals:.0f} refusals), specificity {_percent(spared)} "
        f"({n} {found.replies - found.refusals:.0f} others) on {_set(found, human)}"
    )


def _set(found: MeasuredError, human: bool) -> str:
    labels = "" if found.by_people else ", labels of an AI language model, not of people"
    of = f"{found.n} {'human-labelled' if human else 'labelled'} replies"
    return f"{f'the {found.stands_for} replies that {of} stand for' if found.stands_for else of} ({found.data}{labels})"


def _percent(found: stats.Estimate) -> str:
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
