"""The numbers of a study: rates of every method, answers to its questions, and what each cell took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drirl_core import stats
from drirl_core.benchmarks import judge_differences
from drirl_core.benchmarks.examine import columns
from drirl_core.benchmarks.judge_words import RATES
from drirl_core.benchmarks.measure import ALL
from drirl_core.benchmarks.render import POLICY_NAMES
from drirl_core.benchmarks.suites import PAIRED
from drirl_core.report.headline import LEVEL, p_value, points
from drirl_core.reporting import counted
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.study.file import QuestionConfig, Study, policy_of
from drirl_core.study.outcomes import Measurement, Outcomes

RESAMPLES, SEED = 10_000, 0
"""Of intervals and tests; the same for every study, so that it can be repeated."""

_UNSAFE, _SAFE = PAIRED


def rates(found: Outcomes) -> list[dict[str, Any]]:
    """Return the rates of every method and seed, of complete groups and of their categories.

    Args:
        found: the measurements.

    Returns:
        Rows `method`, `seed`, `suite`, `group`, `category` (`all` for the complete group), `outcome` (`refusal` or
        `correct`), `n`, `rate`, `low`, `high` (Wilson 95 %).
    """
    rows = []
    for suite in found.suites:
        for method, measured in found.methods(suite).items():
            for one in measured:
                names = {"method": method, "seed": one.seed, "suite": suite}
                rows += [{**names, **row} for row in _rates(one)]
    return rows


def _rates(one: Measurement) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[bool]] = {}
    for (group, _, _), row in one.rows.items():
        for category in (ALL, row["category"]):
            groups.setdefault((group, category, "refusal"), []).append(row["label"] == "refusal")
            if row["correct"] is not None:
                groups.setdefault((group, category, "correct"), []).append(bool(row["correct"]))
    found = []
    for (group, category, outcome), values in groups.items():
        rate = stats.wilson(sum(values), len(values))
        place = {"group": group, "category": category, "outcome": outcome, "n": len(values)}
        found.append({**place, "rate": rate.value, "low": rate.low, "high": rate.high})
    return found


def methods(found: Outcomes) -> list[dict[str, Any]]:
    """Return one row per method and suite: means over its seeds, with intervals over prompts.

    Args:
        found: the measurements.

    Returns:
        Rows `suite`, `method`, `seeds` and, each with `_low` and `_high`: `refusal`, `over_refusal`, `composite`,
        `helpful_correct`; and `auc` and `pair_accuracy` as means of the benchmarks' figures. What a suite does not
        measure is None. With one seed rates have Wilson intervals, with several ones intervals of a bootstrap over
        prompts, which the seeds of a prompt enter together.
    """
    rows = []
    for suite in found.suites:
        for method, measured in found.methods(suite).items():
            row: dict[str, Any] = {"suite": suite, "method": method, "seeds": len(measured)}
            unsafe, safe = (_shares(measured, group, "refusal") for group in PAIRED)
            row |= columns("refusal", _rate(unsafe, len(measured)))
            row |= columns("over_refusal", _rate(safe, len(measured)))
            both = stats.composite(unsafe, safe, RESAMPLES, SEED) if len(unsafe) and len(safe) else None
            row |= columns("composite", both)
            helpful = _shares(measured, "helpful", "correct")
            row |= columns("helpful_correct", _rate(helpful, len(measured)))
            rows.append({**row, **{name: _mean_of(measured, name) for name in ("auc", "pair_accuracy")}})
    return rows


def answers(study: Study, found: Outcomes) -> list[dict[str, Any]]:
    """Answer every question on every suite: the first policy minus the second, over prompts and seeds of both.

    Args:
        study: its questions.
        found: the measurements.

    Returns:
        Rows `ask`, `first`, `second`, `suite`, `measure`, `seeds`, `unsafe` and `safe` (numbers of prompts),
        `difference`, `low`, `high`, `p`, `p_corrected` (Holm, over all rows), `verdict` (`yes`, `no` or `not shown`),
        `sentence`, `by_seed`, the difference per seed, and `without_judge_errors` with `_low` and `_high`, the
        difference without the errors of the judge of both policies, None where nothing can be said of it. The measure
        is refusal of unsafe prompts minus that of safe look-alikes; on a suite with one kind of prompt it is the
        refusal of those, for safe ones with the sign reversed.
    """
    rows = [row for question in study.questions for suite in found.suites if (row := _answer(question, suite, found))]
    for row, p in zip(rows, stats.holm([row["p"] for row in rows]), strict=True):
        row["p_corrected"] = p
        row["verdict"] = (
            "not shown" if p >= LEVEL or not row["difference"] else "yes" if row["difference"] > 0 else "no"
        )
        row["sentence"] = _sentence(row)
    return rows


def judges(found: Outcomes) -> list[dict[str, Any]]:
    """Return who judged the methods of each suite, and how often that judge is wrong.

    Args:
        found: the measurements.

    Returns:
        Rows `suite` and the columns of `drirl_core.benchmarks.judge_differences.judge_row`, one per suite and judge.
    """
    return [
        {"suite": suite, **judge_differences.judge_row(judge, names)}
        for suite in found.suites
        for judge, names in _by_judge(found, suite)
    ]


def judge_lines(suite: str, found: Outcomes, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say who judged a suite, and what the errors of that judge mean for differences of methods.

    Args:
        suite: its name.
        found: the measurements.
        rows: rows of `methods`.
    """
    own = {_shown(row["method"]): {name: row[name] for name in RATES} for row in rows if row["suite"] == suite}
    groups = [(judge, [_shown(name) for name in names]) for judge, names in _by_judge(found, suite)]
    return judge_differences.judge_lines(groups, own)


def costs(study: Study, found: Outcomes, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return what was spent for each cell; an artifact that several cells share counts in the first of them.

    Args:
        study: the study.
        found: which artifacts each cell has.
        store: holds them.

    Returns:
        Rows `cell`, `seed`, `asset`, `version`, `seconds`.
    """
    counted: set[tuple[str, str]] = set()
    rows = []
    for cell in study.cells:
        for asset, version in found.versions.get(cell.label, {}).items():
            manifest = store.manifest(asset, version)
            seconds = ((manifest or {}).get("metadata") or {}).get("seconds")
            if (asset, version) not in counted and isinstance(seconds, int | float):
                rows.append(
                    {
                        "cell": cell.name,
                        "seed": cell.seed,
                        "asset": asset,
                        "version": version,
                        "seconds": float(seconds),
                    }
                )
            counted.add((asset, version))
    return rows


def _answer(question: QuestionConfig, suite: str, found: Outcomes) -> dict[str, Any] | None:
    """Compare the two policies of a question on a suite; None where they were not both measured with a seed."""
    first, second = (found.of(*policy_of(side), suite) for side in (question.first, question.second))
    seeds = [seed for seed in first if seed in second]
    by_seed = {seed: _differences(first[seed], second[seed]) for seed in seeds}
    pooled = {group: _pooled([one[group] for one in by_seed.values()]) for group in PAIRED}
    if not len(pooled[_UNSAFE]) and not len(pooled[_SAFE]):
        return None
    result = stats.pooled_composite(pooled[_UNSAFE], pooled[_SAFE], RESAMPLES, SEED)
    error = judge_differences.common_error([side[seed].judge for side in (first, second) for seed in seeds])
    parts = [name for name, group in (("refusal", _UNSAFE), ("minus over-refusal", _SAFE)) if len(pooled[group])]
    return {
        "ask": question.ask,
        "first": question.first,
        "second": question.second,
        "suite": suite,
        "measure": " ".join(parts),
        "seeds": len(seeds),
        "unsafe": len(pooled[_UNSAFE]),
        "safe": len(pooled[_SAFE]),
        "difference": result.value,
        "low": result.low,
        "high": result.high,
        "p": result.p,
        "by_seed": [_composite(one) for one in by_seed.values()],
        **judge_differences.without_errors(error, pooled[_UNSAFE], pooled[_SAFE], RESAMPLES, SEED),
    }


def _shown(method: str) -> str:
    return POLICY_NAMES.get(method, method)


def _by_judge(found: Outcomes, suite: str) -> list[tuple[judge_differences.KnownJudge, list[str]]]:
    return judge_differences.by_judge((name, own[0].judge) for name, own in found.methods(suite).items())


def _differences(first: Measurement, second: Measurement) -> dict[str, dict[Any, float]]:
    """Return by group and prompt whether the first refuses minus whether the second does, where both were asked."""
    found: dict[str, dict[Any, float]] = {group: {} for group in PAIRED}
    for key, row in first.rows.items():
        if key[0] in found and key in second.rows:
            found[key[0]][key] = float(row["label"] == "refusal") - float(second.rows[key]["label"] == "refusal")
    return found


def _pooled(by_seed: Sequence[Mapping[Any, float]]) -> np.ndarray:
    """Average the differences of each prompt over the seeds, (prompts that every seed has,)."""
    if not by_seed:
        return np.zeros(0)
    common = [key for key in by_seed[0] if all(key in one for one in by_seed)]
    return np.array([np.mean([one[key] for one in by_seed]) for key in common])


def _composite(one: Mapping[str, Mapping[Any, float]]) -> float:
    parts = [
        sign * float(np.mean(list(one[group].values()))) for sign, group in ((1, _UNSAFE), (-1, _SAFE)) if one[group]
    ]
    return sum(parts)


def _shares(measured: Sequence[Measurement], group: str, outcome: str) -> np.ndarray:
    """Return the share of the seeds in which each prompt of a group has an outcome, (prompts,)."""
    kept: dict[Any, list[float]] = {}
    for one in measured:
        for key, row in one.rows.items():
            if key[0] == group and (outcome == "refusal" or row["correct"] is not None):
                value = row["label"] == "refusal" if outcome == "refusal" else bool(row["correct"])
                kept.setdefault(key, []).append(float(value))
    return np.array([np.mean(values) for values in kept.values()])


def _rate(shares: np.ndarray, seeds: int) -> stats.Estimate | None:
    if not len(shares):
        return None
    if seeds == 1 or shares.min() == shares.max():  # a bootstrap of equal values would be certain
        return stats.wilson_rate(float(shares.mean()), len(shares))
    return stats.bootstrap_mean(shares.tolist(), RESAMPLES, SEED)


def _mean_of(measured: Sequence[Measurement], name: str) -> float | None:
    values = [one.examined.get(name) for one in measured]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _sentence(row: Mapping[str, Any]) -> str:
    seeds = counted(row["seeds"], "seed")
    interval = f"{points(row['difference'])} points [{points(row['low'])}, {points(row['high'])}]"
    numbers = f"{row['suite']}, {seeds}: {interval}, corrected p {p_value(row['p_corrected'])}"
    words = {"yes": "Yes", "no": "No, it does worse", "not shown": "Not shown"}[row["verdict"]]
    return f"{words} ({numbers}).{_half(row)}"


def _half(row: Mapping[str, Any]) -> str:
    """Say of a suite with one kind of prompt what its verdict cannot tell; empty where there is none to misread."""
    if row["verdict"] == "not shown" or (row["unsafe"] and row["safe"]):
        return ""
    asked, best = ("unsafe", "everything") if row["unsafe"] else ("harmless", "nothing")
    return f" This suite asks {asked} prompts alone, on which a policy that refuses {best} is best."
