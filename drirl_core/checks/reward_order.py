"""What a reward model must promise for GRPO: the right order within groups of the policy's own samples.

`checks.min_within_group` is the floor of the blocking rule. Under `LEAST_PAIRS` pairs the figure says too little to block
anything, and the second rule warns of that instead.
"""

import json
from pathlib import Path
from typing import Any

from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.graph.layout import Node
from drirl_core.project import Project

LEAST_PAIRS = 30
"""Pairs under which that share is not judged."""


def within_group(path: Path, project: Project, node: Node) -> Verdict:
    """Within groups of the policy's own samples the right completion must be ahead."""
    found, floor = _found(path), project.config.checks.min_within_group
    if found["pairs"] < LEAST_PAIRS:
        said = f"not judged: {found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
        return Verdict(True, said, _numbers(found, project))
    said = (
        f"the right completion wins {found['accuracy']:.1%} [{found['low']:.0%}, {found['high']:.0%}] of "
        f"{found['pairs']} pairs within {found['groups']} groups of the policy's own samples, "
        f"at least {floor:.0%} wanted"
    )
    return Verdict(found["accuracy"] >= floor, said, _numbers(found, project))


def enough_pairs(path: Path, project: Project, node: Node) -> Verdict:
    """There must be enough pairs within groups to judge the order."""
    found = _found(path)
    said = f"{found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
    if found["pairs"] < LEAST_PAIRS:
        said = f"too few pairs to judge the order within groups: {said}; raise completions.samples"
    return Verdict(found["pairs"] >= LEAST_PAIRS, said, _numbers(found, project))


REWARD_ORDER_RULES = (
    Rule(
        "within_group",
        "Within groups of the policy's own samples the right completion is ahead.",
        within_group,
        bounds=("checks.min_within_group",),
    ),
    Rule("within_group_pairs", "There are enough pairs within groups to judge that.", enough_pairs, blocking=False),
)


def _found(path: Path) -> dict[str, Any]:
    return json.loads((path / "metrics.json").read_text(encoding="utf-8"))["within_group"]["all"]


def _numbers(found: dict[str, Any], project: Project) -> dict[str, Any]:
    shown = {f"within_group_{name}": value for name, value in found.items() if value is not None}
    return {**shown, "min_within_group": project.config.checks.min_within_group, "least_pairs": LEAST_PAIRS}
