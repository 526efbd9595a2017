"""The judges that a configuration names, at work on the replies of a suite; and what they add to the results.

With the rules judge alone nothing is added. A prompt on which the judge gave no usable verdict for some policy is left
out for every policy (with its twin), so that comparisons stay paired; how many there are is reported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core import stats
from drirl_core.benchmarks.judges.verdicts import INVALID, EmbeddedJudge, Judge, RulesJudge
from drirl_core.benchmarks.judges.weight_files import weights_of
from drirl_core.benchmarks.measure import Judged
from drirl_core.benchmarks.suites import GROUPS, BenchmarkRow
from drirl_core.config import Config
from drirl_core.demonstrations.safety_policy import texts_of
from drirl_core.errors import DataError
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore

DETAILS = pa.field("details", pa.string())
"""Column of `replies.parquet` with a judge other than the rules: what else it said, as JSON."""
SECOND_LABEL = pa.field("second_label", pa.string())
"""Column of `replies.parquet` with a second judge: its label."""


def make_judge(name: str, config: Config, store: ArtifactStore, reporter: Reporter) -> Judge:
    """Return a judge.

    Args:
        name: `rules`, `embedded` or `llm`.
        config: the complete configuration.
        store: keeps embeddings and verdicts.
        reporter: gets progress.

    Raises:
        DataError: weights cannot be read.
        ConfigError: the endpoint's URL or the safety policy cannot be used.
    """
    if name == "embedded":
        return EmbeddedJudge(Path(config.benchmarks.embedded.folder), config.models, store, reporter)
    if name == "llm":
        from drirl_core.benchmarks.judges.llm import LlmJudge

        return LlmJudge(config.benchmarks.llm, store, reporter, rules=texts_of(config))
    return RulesJudge()


@dataclasses.dataclass(frozen=True)
class Judges:
    """The judge of the rates, and the one that is compared with it, if there is one."""

    first: Judge
    second: Judge | None

    @classmethod
    def of(cls, config: Config, store: ArtifactStore, reporter: Reporter) -> Judges:
        """Return the judges of a configuration, as `make_judge` does."""
        settings = config.benchmarks
        second = None if settings.second_judge == "none" else make_judge(settings.second_judge, config, store, reporter)
        return cls(make_judge(settings.judge, config, store, reporter), second)

    def check(self) -> None:
        """Raise before a model of the run loads, if one of them cannot work."""
        for judge in (self.first, self.second):
            if judge:
                judge.check()

    def judge(self, replies: Sequence[Judged]) -> list[Judged]:
        """Judge replies again that the rules have judged already.

        Args:
            replies: N replies with the labels of the rules.

        Returns:
            The N replies with the labels of these judges.
        """
        prompts, texts = [reply.row.prompt for reply in replies], [reply.reply for reply in replies]
        categories = [reply.row.category for reply in replies]
        found = list(replies)
        if not isinstance(self.first, RulesJudge):
            verdicts = self.first.verdicts(prompts, texts, categories)
            found = [
                reply.relabelled(verdict.label, json.dumps(verdict.details, sort_keys=True))
                for reply, verdict in zip(found, verdicts, strict=True)
            ]
        if self.second:
            seconds = self.second.verdicts(prompts, texts, categories)
            found = [dataclasses.replace(r, second=v.label) for r, v in zip(found, seconds, strict=True)]
        return found

    def columns(self) -> list[pa.Field]:
        """Return the columns that they add to `replies.parquet`."""
        return ([] if isinstance(self.first, RulesJudge) else [DETAILS]) + ([SECOND_LABEL] if self.second else [])

    def added(self, replies: Sequence[Judged], resamples: int, seed: int) -> dict[str, Any]:
        """Return what they add to `results.json`; nothing for the rules judge alone.

        Args:
            replies: every policy's judged replies, invalid ones included.
            resamples: bootstrap resamples of means.
            seed: of the resampling.

        Returns:
            `judge`, and as far as there are any `invalid`, `grades`, `second_judge` and `disagreement`.
        """
        found: dict[str, Any] = {}
        if not isinstance(self.first, RulesJudge):
            found |= {
                "judge": dict(self.first.record),
                "invalid": _invalid(replies),
                "grades": [row for key, part in _parts(replies).items() for row in _grades(key, part, resamples, seed)],
            }
        if self.second:
            rows = [_disagreement(key, part) for key, part in _parts(replies).items()]
            found |= {"second_judge": dict(self.second.record), "disagreement": [row for row in rows if row]}
        return found


def identity(config: Config) -> list[Any]:
    """Return what decides the verdicts, for the key of an evaluation; empty for the rules judge alone."""
    settings = config.benchmarks
    names = [settings.judge, settings.second_judge]
    if names == ["rules", "none"]:
        return []
    llm = dataclasses.asdict(settings.llm) if "llm" in names else {}
    rules = texts_of(config) if "llm" in names else {}
    decisive = {k: v for k, v in llm.items() if k not in ("api_key_env", "parallel")}
    return [*names, decisive, weights_of(config), *([rules] if rules else [])]


def left_out(replies: Sequence[Judged]) -> set[str]:
    """Return the ids of the prompts with an invalid verdict for some policy, and of their twins."""
    invalid = {reply.row.prompt_id for reply in replies if reply.label == INVALID}
    pairs = {reply.row.pair for reply in replies if reply.row.prompt_id in invalid and reply.row.pair}
    return invalid | {reply.row.prompt_id for reply in replies if reply.row.pair in pairs}


def valid(replies: Sequence[Judged], rows: Sequence[BenchmarkRow]) -> tuple[list[Judged], list[bool]]:
    """Leave out prompts without a usable verdict.

    Args:
        replies: every policy's judged replies.
        rows: N rows.

    Returns:
        The replies to the other prompts, and which of the N rows stay.

    Raises:
        DataError: none stays.
    """
    gone = left_out(replies)
    stays = [reply for reply in replies if reply.row.prompt_id not in gone]
    if replies and not stays:
        raise DataError(
            "the judge gave no usable verdict on any prompt; see the column `details` of the judged replies in an "
            "evaluation of few rows, and try another model, rubric or a larger benchmarks.llm.max_new_tokens"
        )
    return stays, [row.prompt_id not in gone for row in rows]


def _parts(replies: Sequence[Judged]) -> dict[tuple[str, str], list[Judged]]:
    found: dict[tuple[str, str], list[Judged]] = {}
    for reply in replies:
        found.setdefault((reply.policy, reply.row.group), []).append(reply)
    order = list(dict.fromkeys(reply.policy for reply in replies))
    return {(p, g): found[p, g] for p in order for g in GROUPS if (p, g) in found}


def _invalid(replies: Sequence[Judged]) -> dict[str, Any]:
    counts = {
        policy: sum(r.label == INVALID for r in replies if r.policy == policy)
        for policy in dict.fromkeys(r.policy for r in replies)
    }
    return {"by_policy": counts, "prompts_left_out": len(left_out(replies))}


def _grades(key: tuple[str, str], part: Sequence[Judged], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return means of scores, and shares of kinds, of one policy in one group; usable verdicts of the rubric only."""
    details = [json.loads(reply.details) for reply in part if reply.details and reply.label != INVALID]
    rows: list[dict[str, Any]] = []
    for name in ("score", "goodness"):
        values = [one[name] for one in details if name in one]
        if values:
            mean = stats.bootstrap_mean(values, resamples, seed)
            rows.append(_row(key, name, len(values), mean))
    safe = [one["safe"] for one in details if "safe" in one]
    if safe:
        rows.append(_row(key, "safe_action", len(safe), stats.wilson(sum(safe), len(safe))))
    for name in ("kind", "action"):
        kinds = [one[name] for one in details if name in one]
        for kind in sorted(set(kinds)):
            rows.append(_row(key, kind, len(kinds), stats.wilson(kinds.count(kind), len(kinds))))
    return rows


def _row(key: tuple[str, str], name: str, n: int, found: stats.Estimate) -> dict[str, Any]:
    policy, group = key
    named = {"policy": policy, "group": group, "grade": name, "n": n}
    return {**named, "value": found.value, "low": found.low, "high": found.high}


def _disagreement(key: tuple[str, str], part: Sequence[Judged]) -> dict[str, Any] | None:
    """Return how often two judges differ on whether a reply refuses; replies that one calls invalid do not count."""
    both = [reply for reply in part if INVALID not in (reply.label, reply.second)]
    if not both:
        return None
    first = [reply.label == "refusal" for reply in both]
    second = [reply.second == "refusal" for reply in both]
    differ = [a != b for a, b in zip(first, second, strict=True)]
    names = {"only_first": sum(a and not b for a, b in zip(first, second, strict=True)), "differ": sum(differ)}
    return {**_row(key, "differ", len(both), stats.wilson(sum(differ), len(differ))), **names}
