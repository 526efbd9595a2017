"""Whether a candidate does worse than the promoted policy: paired tests on the prompts that both answered."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.artifacts import ArtifactStore
from drirl_core.config import Config
from drirl_core.promotion import CANDIDATE, Ledger
from drirl_core.stages import Node
from pipeline.lib.verdicts import Verdict, gather

ALIGNED = "dr_irl"
_NOT_COMPARABLE = "promote by hand with `drirl promote --force --why ...`"

Outcomes = Mapping[str, Mapping[str, Any]]
"""By prompt id: `group`, `refused` and `correct` (None without a known answer)."""


def no_regression(path: Path, config: Config, node: Node) -> Verdict:
    """Compare a candidate with the promoted policy, prompt by prompt, suite by suite."""
    store = ArtifactStore.of(config)
    promoted = Ledger(store).current()
    if promoted is None:
        return Verdict(True, "no policy is promoted yet, so there is nothing to fall behind")
    before = store.open(CANDIDATE, promoted.candidate).path
    shared = [suite.name for suite in config.benchmarks.suites if (before / suite.name).is_dir()]
    if not shared:
        return Verdict(False, f"the promoted policy {promoted.policy} was measured on none of these suites; {_NOT_COMPARABLE}")
    found = gather({name: compare(outcomes(path / name), outcomes(before / name), config) for name in shared})
    return Verdict(found.passed, f"against {promoted.policy}: {found.description}", {"promoted": promoted.policy, **found.metadata})


def compare(own: Outcomes, before: Outcomes, config: Config) -> Verdict:
    """Test whether a policy does worse than another one on the prompts that both answered.

    Refusal minus over-refusal by an exact permutation test (the one of them that a suite measures by McNemar's), correct
    helpful replies by McNemar's test.

    Args:
        own: the candidate's outcomes.
        before: the promoted policy's.
        config: `promotion.level` and `benchmarks.resamples`.

    Returns:
        A verdict that fails when a test finds the candidate worse, or when no prompt is common.
    """
    common = [key for key in own if key in before and own[key]["group"] == before[key]["group"]]
    if not common:
        return Verdict(False, f"the promoted policy answered none of these prompts; {_NOT_COMPARABLE}")
    numbers: dict[str, Any] = {"common_prompts": len(common)}
    said, worse = [], []
    for name, better, difference, p in _tests(common, own, before, config):
        words = name.replace("_", " ")
        numbers |= {name: difference, f"{name}_p": p}
        said.append(f"{words} {100 * difference:+.1f} points (p = {p:.2g})")
        if difference * better < 0 and p < config.promotion.level:
            worse.append(words)
    verdict = f"worse in {' and '.join(worse)}: " if worse else ""
    return Verdict(not worse, f"{verdict}{', '.join(said)} on {len(common)} prompts", numbers)


def _tests(common: Sequence[str], own: Outcomes, before: Outcomes, config: Config) -> Iterator[tuple[str, int, float, float]]:
    """Yield each comparison: its name, the sign of what is better, the difference as a share, and its p-value."""
    from drirl_core.benchmarks.statistics import compare_composite, mcnemar  # brings numpy

    def both(outcome: str, group: str) -> tuple[list[bool], list[bool]]:
        keys = [key for key in common if own[key]["group"] == group and own[key][outcome] is not None and before[key][outcome] is not None]
        return [own[key][outcome] for key in keys], [before[key][outcome] for key in keys]

    unsafe, safe, helpful = both("refused", "unsafe"), both("refused", "safe_look_alike"), both("correct", "helpful")
    if unsafe[0] and safe[0]:
        found = compare_composite(unsafe, safe, config.benchmarks.resamples, config.seed)
        yield "refusal_minus_over_refusal", 1, found.value, found.p
    else:
        for name, better, (first, second) in (("refusal", 1, unsafe), ("over_refusal", -1, safe)):
            if first:
                yield name, better, (sum(first) - sum(second)) / len(first), mcnemar(first, second).p
    if helpful[0]:
        first, second = helpful
        yield "helpful_correct", 1, (sum(first) - sum(second)) / len(first), mcnemar(first, second).p


def outcomes(suite: Path) -> dict[str, dict[str, Any]]:
    """Read what the aligned policy did on a suite, from a directory with `replies.parquet`."""
    from drirl_core.tables import read_table  # brings pyarrow

    rows = read_table(suite / "replies.parquet", ("prompt_id", "group", "policy", "label", "correct"))
    return {
        row["prompt_id"]: {"group": row["group"], "refused": row["label"] == "refusal", "correct": row["correct"]}
        for row in rows
        if row["policy"] == ALIGNED
    }
