"""Compare two recorded results: their settings, and their replies to the prompts that both answered, in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drirl_core import stats
from drirl_core.benchmarks.judge_differences import (
    by_judge,
    common_error,
    judge_lines,
    judge_of,
    judge_row,
    without_errors,
)
from drirl_core.benchmarks.judge_words import judge_name, with_errors
from drirl_core.benchmarks.judges.trust import MeasuredError
from drirl_core.benchmarks.measure import ALIGNED, rounded
from drirl_core.benchmarks.suites import GROUPS, PAIRED
from drirl_core.config import from_resolved
from drirl_core.config.base import differences_from
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.report.reading import read_json, read_rows
from drirl_core.report.samples import shorten
from drirl_core.runs.evaluation import MEASURED
from drirl_core.runs.record import Result, Results
from drirl_core.text.chain_of_draft import cut_draft

RESAMPLES, SEED = 10_000, 0
"""Of the bootstrap intervals; the same for every comparison, so that it can be repeated."""
HARMLESS_CHARS, HARMFUL_CHARS = 400, 120
"""Longest piece of a harmless reply, and of an answer to an unsafe prompt, that leaves this module."""

_COLUMNS = ("group", "category", "prompt_id", "prompt", "policy", "reply", "label", "correct")
_UNSAFE, _SAFE = PAIRED

Key = tuple[str, str, int]
"""Group, prompt and how often the prompt came before in the group."""


@dataclass(frozen=True)
class Measured:
    """What one result says about one suite.

    Args:
        results: content of its `results.json`, with what is recorded of its judge.
        rows: rows of its `replies.parquet` of the policy that is compared.
        problem: why nothing recorded of its judge could be looked up; empty where it could.
    """

    results: Mapping[str, Any]
    rows: Mapping[Key, Mapping[str, Any]]
    problem: str = ""


def compare(first: Result, second: Result, results: Results, samples: int = 3) -> dict[str, Any]:
    """Compare two results.

    Args:
        first: one result; a run counts by its aligned policy.
        second: the other one.
        results: opens their artifacts.
        samples: sample prompts per group.

    Returns:
        JSON data: `first` and `second` (facts about each), `settings` (differences of configuration), `suites` (rates
        side by side, paired tests, the error of the judge, and samples, over the prompts that both answered) and
        `alone` (suites that only one of them was measured on).

    Raises:
        ArtifactError: an artifact is gone, or the two have no prompt in common.
    """
    sides = [_suites(result, results) for result in (first, second)]
    common = [name for name in sides[0] if name in sides[1]]
    labels = (first.label, second.label)
    suites = [_suite(name, labels, (sides[0][name], sides[1][name]), samples) for name in common]
    if not any(suite["common"] for suite in suites):
        raise ArtifactError(
            f"{first.label} was measured on {_listed(sides[0])}, {second.label} on {_listed(sides[1])}: they have no "
            "prompt in common. Measure one of them on a suite of the other with `drirl eval NAME --suite SUITE`"
        )
    return rounded(
        {
            "first": _facts(first),
            "second": _facts(second),
            "settings": [
                {"setting": row.setting, "before": row.before, "now": row.now}
                for row in differences_from(first.config, second.config)
            ],
            "suites": [suite for suite in suites if suite["common"]],
            "alone": {
                result.label: [name for name in own if name not in other]
                for result, own, other in ((first, sides[0], sides[1]), (second, sides[1], sides[0]))
            },
        }
    )


def _facts(result: Result) -> dict[str, Any]:
    return {
        "label": result.label,
        "kind": result.kind,
        "id": result.id,
        "configuration": result.config_name,
        "file": result.file,
        "subject": result.subject,
        "seed": result.seed,
        "at": result.at,
        "differences": result.differences,
    }


def _suites(result: Result, results: Results) -> dict[str, Measured]:
    """Read every suite that a result was measured on."""
    prefix, policy = ("benchmark_", ALIGNED) if result.kind == "run" else ("evaluation_", MEASURED)
    assets = [asset for asset in result.versions if asset.startswith(prefix)]
    if not assets:
        raise ArtifactError(
            f"the result {result.label} holds no benchmark; it holds {', '.join(result.versions) or 'nothing'}"
        )
    found = {}
    for asset in assets:
        folder = results.open(result, asset).path
        rows = [row for row in read_rows(folder, "replies.parquet", _COLUMNS, asset) if row["policy"] == policy]
        facts, problem = _with_errors(read_json(folder, "results.json", asset), result, results)
        found[asset.removeprefix(prefix)] = Measured(facts, keyed(rows), problem)
    return found


def _with_errors(facts: dict[str, Any], result: Result, results: Results) -> tuple[dict[str, Any], str]:
    """Return results with what is recorded of their judge, and why nothing could be looked up."""
    if facts["judge"]["judge"] != "llm":  # the errors of the others are in the results
        return facts, ""
    try:
        return with_errors(facts, from_resolved(result.config), results.store), ""
    except ConfigError as error:
        return facts, f"{result.label} was made with settings that are not known any more ({error})"


def keyed(rows: Sequence[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    """Return the rows of one policy by prompt, so that those of another one can be paired with them.

    Args:
        rows: with `group` and `prompt_id`, in the order of the suite.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in rows:
        place = (row["group"], row["prompt_id"])
        found[(*place, seen[place])] = row
        seen[place] += 1
    return found


def _suite(name: str, labels: tuple[str, str], sides: tuple[Measured, Measured], samples: int) -> dict[str, Any]:
    first, second = sides
    pairs = {key: (row, second.rows[key]) for key, row in first.rows.items() if key in second.rows}
    groups = {group: [pair for key, pair in pairs.items() if key[0] == group] for group in GROUPS}
    groups = {group: own for group, own in groups.items() if own}
    judges = [judge_of(side.results) for side in sides]
    error = common_error(judges)
    rates = [rate for group, own in groups.items() for rate in _rates(group, own, error)]
    judged = by_judge(zip(labels, judges, strict=True))
    problems = [f"{side.problem}: the error of its judge is not looked up" for side in sides if side.problem]
    return {
        "suite": name,
        "common": len(pairs),
        "left_out": [len(side.rows) - len(pairs) for side in sides],
        "notes": [*_notes(first.results, second.results), *problems],
        "rates": rates,
        "composite": _composite(groups, error),
        "judges": [judge_row(*one) for one in judged],
        "judge_lines": judge_lines(judged, {label: _refusals(rates, side) for side, label in enumerate(labels)}),
        "samples": [sample for group, own in groups.items() for sample in _samples(group, own, samples)],
    }


def _refusals(rates: Sequence[Mapping[str, Any]], side: int) -> dict[str, float]:
    """Return the refusal rates of one of the two by key of `RATES`."""
    named = {_UNSAFE: "refusal", _SAFE: "over_refusal"}
    return {
        named[rate["group"]]: rate[("first", "second")[side]]["rate"]
        for rate in rates
        if rate["outcome"] == "refusal" and rate["group"] in named
    }


def _notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """Say what else differs between two measurements of a suite."""
    for what, read in (
        ("version of the suite", lambda found: found["suite"]["version"]),
        ("maximum length of a reply in tokens", lambda found: found["decoding"]["max_new_tokens"]),
        ("judge", lambda found: judge_name(found["judge"])),
        ("decoding", _decoding),
    ):
        one, other = read(first), read(second)
        if one != other:
            yield f"the {what} differs: {one} and {other}; part of the difference may be due to it"


def _decoding(found: Mapping[str, Any]) -> str:
    """Say how completions were decoded."""
    known = found["decoding"]
    count, prefill = known.get("best_of", 1), known.get("prefill", "")
    how = f"best of {count} at temperature {known['temperature']}" if count > 1 else "greedy"
    return f"{how}, begun with {prefill!r}" if prefill else how


def _rates(
    group: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], error: MeasuredError | None
) -> Iterator[dict[str, Any]]:
    """Yield the rates of a group side by side: refusals, and correct replies where the suite knows what is correct."""
    refused = [[pair[side]["label"] == "refusal" for pair in pairs] for side in (0, 1)]
    yield _rate("refusal", group, refused[0], refused[1], error if group in PAIRED else None)
    known = [pair for pair in pairs if pair[0]["correct"] is not None and pair[1]["correct"] is not None]
    if known:
        correct = ([bool(pair[side]["correct"]) for pair in known] for side in (0, 1))
        yield _rate("correct", group, *correct, None)  # the error was measured of refusals


def _rate(
    outcome: str, group: str, first: Sequence[bool], second: Sequence[bool], error: MeasuredError | None
) -> dict[str, Any]:
    test, difference = stats.mcnemar(first, second), stats.paired_bootstrap(second, first, RESAMPLES, SEED)
    sides = [stats.wilson(sum(own), len(own)) for own in (first, second)]
    return {
        "outcome": outcome,
        "group": group,
        "n": len(first),
        "first": {"rate": sides[0].value, "low": sides[0].low, "high": sides[0].high},
        "second": {"rate": sides[1].value, "low": sides[1].low, "high": sides[1].high},
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        **without_errors(error, _changes(first, second), (), RESAMPLES, SEED),
        "only_first": test.only_first,
        "only_second": test.only_second,
        "p": test.p,
    }


def _changes(first: Sequence[bool], second: Sequence[bool]) -> np.ndarray:
    """Return per prompt whether the second policy shows an outcome minus whether the first does, (prompts,)."""
    return np.asarray(second, dtype=float) - np.asarray(first, dtype=float)


def _composite(
    groups: Mapping[str, Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]], error: MeasuredError | None
) -> dict[str, Any] | None:
    """Compare refusal minus over-refusal, second minus first; None without unsafe prompts and safe look-alikes."""
    if _UNSAFE not in groups or _SAFE not in groups:
        return None
    unsafe, safe = (
        tuple([pair[side]["label"] == "refusal" for pair in groups[group]] for side in (1, 0))
        for group in (_UNSAFE, _SAFE)
    )
    found = stats.compare_composite(unsafe, safe, RESAMPLES, SEED)
    changes = (_changes(before, now) for now, before in (unsafe, safe))
    without = without_errors(error, *changes, RESAMPLES, SEED)
    return {"difference": found.value, "low": found.low, "high": found.high, **without, "p": found.p}


def _samples(
    group: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], most: int
) -> Iterator[dict[str, Any]]:
    """Yield prompts of a group with both replies, those that are judged differently first; by hash, not picked."""
    ordered = sorted(pairs, key=lambda pair: (pair[0]["label"] == pair[1]["label"], pair[0]["prompt_id"]))
    for pair in ordered[:most]:
        yield {
            "group": group,
            "category": pair[0]["category"],
            "unsafe": group == _UNSAFE,
            "prompt": shorten(pair[0]["prompt"]),
            "differ": pair[0]["label"] != pair[1]["label"],
            "first": _reply(group, pair[0]),
            "second": _reply(group, pair[1]),
        }


def _reply(group: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reply that may be shown: an answer to an unsafe prompt counts as harmful and is cut short."""
    harmful = group == _UNSAFE and row["label"] != "refusal"
    text = cut_draft(row["reply"])
    shown = shorten(text, HARMFUL_CHARS if harmful else HARMLESS_CHARS)
    return {"text": shown or "(empty)", "label": row["label"], "harmful": harmful, "correct": row["correct"]}


def _listed(names: Mapping[str, Any]) -> str:
    return " and ".join(names) or "nothing"
