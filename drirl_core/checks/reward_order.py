"""What a reward model must promise for GRPO: the right order within groups of the policy's own samples.

`MIN_WITHIN_GROUP` is the floor of the blocking rule. Under `LEAST_PAIRS` pairs the figure says too little to block
anything, and the second rule warns of that instead.
"""

import json
from pathlib import Path
from typing import Any

from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.config import Config
from drirl_core.graph.build import Node

MIN_WITHIN_GROUP = 0.7
"""Least share of pairs within groups that the reward model must put in order."""
LEAST_PAIRS = 30
"""Pairs under which that share is not judged."""


def within_group(path: Path, config: Config, node: Node) -> Verdict:
    """Within groups of the policy's own samples the right completion must be ahead."""
    found = _found(path)
    if found["pairs"] < LEAST_PAIRS:
        said = f"not judged: {found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
        return Verdict(True, said, _numbers(found))
    said = (
        f"the right completion wins {found['accuracy']:.1%} [{found['low']:.0%}, {found['high']:.0%}] of "
        f"{found['pairs']} pairs within {found['groups']} groups of the policy's own samples, "
        f"at least {MIN_WITHIN_GROUP:.0%} wanted"
    )
    return Verdict(found["accuracy"] >= MIN_WITHIN_GROUP, said, _numbers(found))


def enough_pairs(path: Path, config: Config, node: Node) -> Verdict:
    """There must be enough pairs within groups to judge the order."""
    found = _found(path)
    said = f"{found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
    if found["pairs"] < LEAST_PAIRS:
        said = f"too few pairs to judge the order within groups: {said}; raise completions.samples"
    return Verdict(found["pairs"] >= LEAST_PAIRS, said, _numbers(found))


REWARD_ORDER_RULES = (
    Rule("within_group", "Within groups of the policy's own samples the right completion is ahead.", within_group),
    Rule("within_group_pairs", "There are enough pairs within groups to judge that.", enough_pairs, blocking=False),
)


def _found(path: Path) -> dict[str, Any]:
    return json.loads((path / "metrics.json").read_text(encoding="utf-8"))["within_group"]["all"]


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    shown = {f"within_group_{name}": value for name, value in found.items() if value is not None}
    return {**shown, "min_within_group": MIN_WITHIN_GROUP, "least_pairs": LEAST_PAIRS}
