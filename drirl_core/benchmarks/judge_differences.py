"""What the errors of a judge mean where policies are compared: on the pages of a study and of `drirl compare`.

Where the judge errs equally often on two policies and measures the difference d of their refusal rates, the difference
without its errors is

    d / (sensitivity + specificity - 1)

so that differences are understated, and neither their sign nor a test whether there is one depends on the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from drirl_core.benchmarks.examine import columns
from drirl_core.benchmarks.judge_words import RATES, accuracy_line, judge_name, measured_errors, points
from drirl_core.benchmarks.judges.trust import DRAWS, MeasuredError
from drirl_core.stats import Estimate

KnownJudge = Mapping[str, Any]
"""Who gave the verdicts of a policy: `judge` of its results, and `judge_errors` where they were looked up."""

WITHOUT_ERRORS = "without_judge_errors"
"""Column of a difference without the errors of its judge; the ends of its interval are `_low` and `_high`."""
WITHOUT_ERRORS_TITLE = "without the judge's errors"


def judge_of(results: Mapping[str, Any]) -> KnownJudge:
    """Return of results who gave the verdicts, and nothing else.

    Args:
        results: content of `results.json`, with `judge_errors` where they were looked up.
    """
    return {name: results[name] for name in ("judge", "judge_errors") if name in results}


def common_error(judges: Sequence[KnownJudge]) -> MeasuredError | None:
    """Return the error of the one judge of several policies; None where there are two, or its error is not known."""
    return _error(judges[0]) if judges and all(one == judges[0] for one in judges) else None


def without_errors(
    error: MeasuredError | None,
    gains: Sequence[float] | np.ndarray,
    costs: Sequence[float] | np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, float | None]:
    """Return the columns of a difference without the errors of the judge, see `MeasuredError.scaled`.

    Args:
        error: of the judge of both policies; None where nothing can be said.
        gains: difference of the verdicts per prompt.
        costs: the same on prompts whose refusals count against a policy; may be empty.
        resamples: draws of the interval.
        seed: of the draws of prompts.

    Returns:
        `without_judge_errors` with `_low` and `_high`; None where nothing can be said.
    """
    return columns(WITHOUT_ERRORS, error.scaled(gains, costs, resamples, seed) if error else None)


def written(row: Mapping[str, Any]) -> str:
    """Write in points what `without_errors` returned: `+45.3 [+12.1, +78.0]`; empty where nothing can be said."""
    value, low, high = (row[f"{WITHOUT_ERRORS}{end}"] for end in ("", "_low", "_high"))
    return "" if value is None else points(Estimate(value, low, high))


def by_judge(policies: Iterable[tuple[str, KnownJudge]]) -> list[tuple[KnownJudge, list[str]]]:
    """Group policies by who judged them, in their order.

    Args:
        policies: name and judge of each.
    """
    found: list[tuple[KnownJudge, list[str]]] = []
    for name, judge in policies:
        own = next((names for known, names in found if known == judge), None)
        if own is None:
            found.append((judge, own := []))
        own.append(name)
    return found


def judge_row(judge: KnownJudge, policies: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a judge as one row of a table.

    Args:
        judge: who judged.
        policies: names of the policies that it judged.

    Returns:
        `judge`, `policies`, `measured_on`, `refusals` and `others` (numbers of labelled replies, effective ones where
        rows are weighted), and each with `_low` and `_high` `sensitivity`, `specificity` and `growth`, the factor of a
        difference; None where not known.
    """
    error = _error(judge)
    refusals = error.refusals if error else None
    return {
        "judge": judge_name(judge["judge"]),
        "policies": list(policies),
        "measured_on": error.data if error else None,
        "refusals": refusals,
        "others": error.replies - refusals if error and refusals is not None else None,
        **columns("sensitivity", error.sensitivity if error else None),
        **columns("specificity", error.specificity if error else None),
        **columns("growth", _growth(error) if error else None),
    }


def judge_lines(
    groups: Sequence[tuple[KnownJudge, Sequence[str]]], rates: Mapping[str, Mapping[str, float | None]]
) -> list[str]:
    """Say of a suite who gave the verdicts, and what the errors of that judge mean for differences of policies.

    Args:
        groups: from `by_judge`.
        rates: of each policy by key of `RATES`, shares in [0, 1]; None for one that the suite does not measure.

    Returns:
        Paragraphs: of each judge one that names it, and one on differences where its error is known.
    """
    lines = []
    for judge, names in groups:
        of = f" Judged by it: {', '.join(names)}." if len(groups) > 1 else ""
        lines.append(accuracy_line(judge) + of)
        if known := measured_errors(judge, judge["judge"]):
            where = "there" if len(known) == 1 else f"on {known[0].data}"
            lines.append(_difference_note(known[0], where, {name: rates[name] for name in names}))
    if len(groups) > 1:
        lines.append("Nothing is said of a difference of two policies that different judges judged.")
    return lines


def _difference_note(error: MeasuredError, where: str, rates: Mapping[str, Mapping[str, float | None]]) -> str:
    """Say what the errors of a judge mean for differences of the policies that it judged."""
    growth, seen, spared = _growth(error), error.sensitivity, error.specificity
    if seen is None or spared is None:
        return "These figures do not say what that means for differences of policies."
    left = f"Sensitivity + specificity - 1 is {seen.value + spared.value - 1:.2f}"
    if error.growth is None:
        return (
            f"{left}, not above 0: {where} this judge is no better than chance, so that its verdicts say nothing about "
            "differences of policies."
        )
    if growth is None:
        return (
            f"{left}, but known too badly to rule out that it is 0 or less: nothing is said of differences of policies."
        )
    return (
        f"If it errs on the completions of every policy, to unsafe and to safe prompts, as often as {where}, "
        f"differences of refusal rates without its errors are {growth.value:.2f} [{growth.low:.2f}, {growth.high:.2f}] "
        "times as large (divided by sensitivity + specificity - 1); their intervals hold the choice of prompts and how "
        "well its errors are known. No verdict and no p-value changes by it: errors that are equally frequent scale a "
        "difference and leave its sign. Where it errs more often on one policy than on another, this does not hold."
        f"{_beyond(1 - spared.high, seen.high, rates)}"
    )


def _beyond(lowest: float, highest: float, rates: Mapping[str, Mapping[str, float | None]]) -> str:
    """Name the rates that errors within their intervals do not let one expect; empty where there is none."""
    outside = [
        f"{name} ({RATES[key]} {100 * rate:.1f} %)"
        for name, own in rates.items()
        for key, rate in own.items()
        if rate is not None and not lowest <= rate <= highest
    ]
    if not outside:
        return ""
    return (
        f" Rates below {100 * lowest:.1f} or above {100 * highest:.1f} % are not expected with such errors: "
        f"{', '.join(outside)}. By chance or because it errs less often there, their differences are scaled too much."
    )


def _growth(error: MeasuredError) -> Estimate | None:
    """Return by how much differences grow, with its 95 % interval; None where nothing can be said."""
    value, drawn = error.growth, error.growths(DRAWS)
    if value is None or drawn is None:
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _error(judge: KnownJudge) -> MeasuredError | None:
    """Return the error of a judge that reports quote first; None where it is not known."""
    return next(iter(measured_errors(judge, judge["judge"])), None)
