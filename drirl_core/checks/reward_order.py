"""The rules for a reward model before GRPO uses it: the right order within groups of the policy's own samples."""

from pathlib import Path
from typing import Any

from drirl_core.checks.reading import read_object
from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.graph.layout import Node
from drirl_core.project import Project

LEAST_PAIRS = 30
"""With fewer pairs than this the share says too little to block anything; a second rule warns instead."""


def within_group(path: Path, project: Project, node: Node) -> Verdict:
    """Within groups of the policy's own samples the right completion must have the higher reward."""
    found, floor = _found(path), project.config.checks.min_within_group
    if found["pairs"] < LEAST_PAIRS:
        text = f"not judged: {found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
        return Verdict(True, text, _numbers(found, floor))
    text = (
        f"the right completion wins {found['accuracy']:.1%} [{found['low']:.0%}, {found['high']:.0%}] of "
        f"{found['pairs']} pairs within {found['groups']} groups of the policy's own samples, "
        f"at least {floor:.0%} wanted"
    )
    return Verdict(found["accuracy"] >= floor, text, _numbers(found, floor))


def enough_pairs(path: Path, project: Project, node: Node) -> Verdict:
    """There must be enough pairs within groups to judge the order."""
    found = _found(path)
    text = f"{found['pairs']} pairs within {found['groups']} groups, at least {LEAST_PAIRS} needed"
    if found["pairs"] < LEAST_PAIRS:
        text = f"too few pairs to judge the order within groups: {text}; raise completions.samples"
    numbers = {"within_group_pairs": found["pairs"], "within_group_groups": found["groups"], "least_pairs": LEAST_PAIRS}
    return Verdict(found["pairs"] >= LEAST_PAIRS, text, numbers)


REWARD_ORDER: tuple[Rule, ...] = (
    Rule(
        "within_group",
        "Within groups of the policy's own samples the right completion is ahead.",
        within_group,
        bounds=("checks.min_within_group",),
        measures=("within_group_accuracy",),
    ),
    Rule(
        "within_group_pairs",
        "There are enough pairs within groups to judge that.",
        enough_pairs,
        blocking=False,
        measures=("within_group_pairs",),
    ),
)


def _found(path: Path) -> dict[str, Any]:
    return read_object(path, "metrics.json")["within_group"]["all"]


def _numbers(found: dict[str, Any], floor: float) -> dict[str, Any]:
    shown = {f"within_group_{name}": value for name, value in found.items() if value is not None}
    return {**shown, "min_within_group": floor, "least_pairs": LEAST_PAIRS}
