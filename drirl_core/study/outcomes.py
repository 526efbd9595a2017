"""What the cells of a study gave, per prompt: read from the artifacts that the record of results names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drirl_core.benchmarks.judge_differences import KnownJudge, judge_of
from drirl_core.benchmarks.judge_words import with_errors
from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.completions.policies import INITIAL
from drirl_core.config import from_resolved, resolved
from drirl_core.config.base import differences_from
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.graph.policies import asset_of
from drirl_core.report.reading import read_json, read_rows
from drirl_core.runs.compare import Key, keyed
from drirl_core.runs.record import Result, Results
from drirl_core.store.remote import UnreachableError
from drirl_core.study.file import Cell, Study

_COLUMNS = ("group", "category", "prompt_id", "policy", "label", "correct")
_DECIDES_NOTHING = ("checks.", "promotion.", "execution.", "operations.")
"""Settings that change no result."""


@dataclass(frozen=True)
class Measurement:
    """One policy with one seed on one suite.

    Args:
        method: name of the policy in the study.
        cell: its cell.
        policy: its name in the results of the cell.
        seed: of the cell.
        version: what identifies its weights or, of best_of_n, its choices, and how it was asked.
        suite: name of the suite.
        rows: row of `replies.parquet` by prompt.
        examined: AUC and pair accuracy with their intervals, from the results of the benchmark.
        judge: who gave its verdicts, with what is recorded of a judge behind an endpoint.
    """

    method: str
    cell: str
    policy: str
    seed: int
    version: str
    suite: str
    rows: Mapping[Key, Mapping[str, Any]]
    examined: Mapping[str, Any]
    judge: KnownJudge


@dataclass(frozen=True)
class Outcomes:
    """All measurements of a study.

    Args:
        measured: one per cell, seed, policy and suite.
        missing: cells that have no complete result, with the reason.
        versions: by label of a cell, version of each artifact.
    """

    measured: Sequence[Measurement]
    missing: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def suites(self) -> list[str]:
        """Names of the suites, in the order in which they were measured."""
        return list(dict.fromkeys(one.suite for one in self.measured))

    def methods(self, suite: str) -> dict[str, list[Measurement]]:
        """Return the measurements of each method on a suite, once per different weights.

        A policy that several cells or seeds share, such as the base model, is there once.
        """
        found: dict[str, list[Measurement]] = {}
        seen: set[tuple[str, str]] = set()
        for one in self.measured:
            own = (one.policy if one.policy != ALIGNED else one.method, one.version)
            if one.suite == suite and own not in seen:
                seen.add(own)
                found.setdefault(one.method, []).append(one)
        return found

    def of(self, cell: str, policy: str, suite: str) -> dict[int, Measurement]:
        """Return the measurements of a policy of a cell on a suite, by seed."""
        return {one.seed: one for one in self.measured if (one.cell, one.policy, one.suite) == (cell, policy, suite)}


def read_outcomes(study: Study, results: Results, failures: Mapping[str, str]) -> Outcomes:
    """Read the benchmarks of all cells that were run.

    Args:
        study: the study.
        results: the record of results of its store.
        failures: why cells failed that were tried just now, by the name of their result.

    Returns:
        The measurements; a cell whose result is missing, damaged or made with other settings is named with the reason.

    Raises:
        ArtifactError: the record cannot be read.
    """
    recorded = {entry.name: entry for entry in results.named()}
    measured: list[Measurement] = []
    missing: dict[str, str] = {}
    versions: dict[str, Mapping[str, str]] = {}
    for cell in study.cells:
        entry = recorded.get(cell.result)
        problem = why_not(cell, entry)
        if problem or entry is None:
            missing[cell.label] = failures.get(cell.result) or problem
            continue
        try:
            measured += _measured(cell, entry, results, study)
        except UnreachableError:
            raise
        except ArtifactError as error:
            missing[cell.label] = str(error)
            continue
        versions[cell.label] = entry.versions
        if cell.result in failures:
            missing[f"{cell.label} (its earlier result is shown)"] = failures[cell.result]
    return Outcomes(measured, missing, versions)


def why_not(cell: Cell, entry: Result | None) -> str:
    """Say why what was recorded under the name of a cell is not its result; empty where it is.

    Args:
        cell: the cell.
        entry: what was recorded; None for nothing.
    """
    if entry is None:
        return "not run yet"
    try:
        before = resolved(from_resolved(entry.config))
    except ConfigError as error:
        return f"its result was made with settings that are not known any more ({error}); run the study again"
    changed = [
        str(row)
        for row in differences_from(before, resolved(cell.config))
        if not row.setting.startswith(_DECIDES_NOTHING)
    ]
    return f"its result has other settings ({changed[0]}); run the study again" if changed else ""


def _measured(cell: Cell, entry: Result, results: Results, study: Study) -> list[Measurement]:
    found = []
    for asset in (name for name in entry.versions if name.startswith("benchmark_")):
        folder, suite = results.open(entry, asset).path, asset.removeprefix("benchmark_")
        rows = read_rows(folder, "replies.parquet", _COLUMNS, asset)
        facts = with_errors(read_json(folder, "results.json", asset), cell.config, results.store)
        examined = {row["name"]: row for row in facts["examination"]}
        # Completions of one policy that were made, asked or judged in other ways are other measurements.
        how = (*(facts.get(name) for name in ("decoding", "groups", "suite")), cell.config.models.thinking)
        asked = " ".join(map(str, (*how, facts["judge"])))
        for policy in dict.fromkeys(row["policy"] for row in rows):
            weights = cell.config.models.policy
            if policy != INITIAL:
                weights = entry.versions.get(asset_of(policy, suite), entry.id)
            own = [row for row in rows if row["policy"] == policy]
            found.append(
                Measurement(
                    _method(cell, policy, study),
                    cell.name,
                    policy,
                    cell.seed,
                    f"{weights} {asked}",
                    suite,
                    keyed(own),
                    examined.get(policy, {}),
                    judge_of(facts),
                )
            )
    return found


def _method(cell: Cell, policy: str, study: Study) -> str:
    """Name a policy: the aligned one by its cell, base and start alone in the first cell, others by both."""
    if policy == ALIGNED:
        return cell.name
    first = study.cells[0].name
    return policy if cell.name == first else f"{cell.name}/{policy}"
