"""The record of what `drirl judge` measured of judges behind an endpoint, beside the artifacts.

The weights of such a judge are not here, so nothing that comes with the package can say how often it is wrong. Each
measurement is a numbered entry that is written once (`drirl_core.store.journal`), under the identity of the judge: all
that decides its verdicts beside the texts that it reads. Reports look theirs up by that.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.benchmarks.judges.error import measure
from drirl_core.benchmarks.judges.labelled import LabelledSet, is_shipped
from drirl_core.benchmarks.judges.llm import LlmJudge, identity_of
from drirl_core.benchmarks.judges.verdicts import Judge, Verdict
from drirl_core.config import Config
from drirl_core.errors import ArtifactError
from drirl_core.project import Project
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.journal import Journal, now
from drirl_core.store.rowcache import content_key

JUDGE_ERRORS = "judge_errors"
"""Folder of the record below the root of the artifacts."""
_SHOWN = (
    "judge", "model", "rubric", "data", "n", "invalid", "accuracy", "false_refusals", "missed_refusals", "refusal_rate",
    "population",
)  # fmt: skip
"""What reports read of a measurement."""


@dataclass(frozen=True)
class Measured:
    """One entry of the record.

    Args:
        identity: of the judge.
        labelled: digest of the labelled replies.
        error: what `judge_error` computed.
        at: time in UTC, ISO 8601.
    """

    identity: str
    labelled: str
    error: Mapping[str, Any]
    at: str = ""


class JudgeErrors:
    """The recorded errors of one artifact store.

    Args:
        store: holds the artifacts.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._journal = Journal(store, JUDGE_ERRORS)

    def history(self) -> list[Measured]:
        """Return every entry, the oldest first.

        Raises:
            ArtifactError: the record cannot be read; an unreadable record never counts as empty.
        """
        return self._journal.entries(lambda row: Measured(**row), " (`drirl judge` writes it again at no cost)")

    def of(self, identity: str) -> list[dict[str, Any]]:
        """Return what is known of a judge: the last measurement on each labelled set, labels of people first.

        Args:
            identity: of the judge.

        Returns:
            The figures of `judge_error` that reports read, by set; the set with the most replies first, and the
            shipped one, which a model labelled, last.

        Raises:
            ArtifactError: the record cannot be read.
        """
        last = {one.error["data"]: one.error for one in self.history() if one.identity == identity}
        order = sorted(last.values(), key=lambda found: (is_shipped(found["data"]), -found["n"], found["data"]))
        return [{name: found[name] for name in _SHOWN if name in found} for found in order]

    def record(self, measured: Measured) -> None:
        """Append a measurement, unless the last one of this judge on these replies says the same.

        Raises:
            ArtifactError: the record cannot be read or written.
        """

        def entry_after(history: Sequence[Measured]) -> Measured:
            same = [one for one in history if (one.identity, one.labelled) == (measured.identity, measured.labelled)]
            return same[-1] if same and same[-1].error == json.loads(json.dumps(measured.error)) else measured

        self._journal.append(self.history, entry_after)


def measure_and_record(
    judge: Judge, labelled: LabelledSet, store: ArtifactStore
) -> tuple[dict[str, Any], list[Verdict]]:
    """Measure a judge on labelled replies, and record the error of one behind an endpoint for the reports.

    Args:
        judge: any judge; the errors of the others come with the package or with their weights.
        labelled: the set.
        store: where the reports look.

    Returns:
        What `measure` returns.

    Raises:
        DrirlError: the judge cannot work, gives no usable verdict, or the record cannot be written.
    """
    error, verdicts = measure(judge, labelled)
    if isinstance(judge, LlmJudge):
        rows = content_key([dataclasses.asdict(row) for row in labelled.rows])
        JudgeErrors(store).record(Measured(judge.identity, rows, error, now()))
    return error, verdicts


def recorded_errors(config: Config, store: ArtifactStore) -> list[dict[str, Any]] | None:
    """Return what is recorded of the judge behind an endpoint that a configuration names.

    Args:
        config: names the judges.
        store: holds the record.

    Returns:
        As `JudgeErrors.of`; None where no such judge is named.

    Raises:
        ArtifactError: the record cannot be read.
    """
    if "llm" not in (config.benchmarks.judge, config.benchmarks.second_judge):
        return None
    return JudgeErrors(store).of(identity_of(config.benchmarks.llm))


def shown_errors(config: Config) -> list[dict[str, Any]] | str:
    """Return what decides how reports show the judge, for their versions: nothing where nothing is recorded.

    What cannot be read is no error here, where versions are compared: the report, which reads it, says so.

    Args:
        config: names the judges, and the root.
    """
    try:
        return recorded_errors(config, Project(config).store) or []
    except ArtifactError:
        return "unreadable"
