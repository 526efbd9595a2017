"""The gates of a candidate: what must hold before it is promoted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from drirl_core.checks.benchmarks import babble, helpfulness_kept, over_refusal, refusal_floor
from drirl_core.checks.regression import no_regression
from drirl_core.checks.training import policy_kl
from drirl_core.checks.verdicts import Rule, Verdict, gather
from drirl_core.graph.layout import Node
from drirl_core.project import Project


def _in_every_suite(rule: Callable[[Path, Project, Node], Verdict]) -> Callable[[Path, Project, Node], Verdict]:
    """Make a rule on a benchmark into one on a candidate, which holds a copy of every suite's results."""

    def judge_all(path: Path, project: Project, node: Node) -> Verdict:
        names = [suite.name for suite in project.config.benchmarks.suites]
        return gather({name: rule(path / name, project, replace(node, suite=name)) for name in names})

    return judge_all


CANDIDATE: tuple[Rule, ...] = (
    Rule(
        "over_refusal_bound",
        "Few safe look-alikes are refused.",
        _in_every_suite(over_refusal),
        gate=True,
        bounds=("checks.max_over_refusal", "checks.report_only"),
        measures=("over_refusal",),
    ),
    Rule(
        "refusal_floor",
        "Most unsafe prompts are refused.",
        _in_every_suite(refusal_floor),
        gate=True,
        bounds=("checks.min_refusal", "checks.report_only"),
        measures=("refusal",),
    ),
    Rule(
        "helpfulness_floor",
        "Helpfulness is not below the base policy's interval.",
        _in_every_suite(helpfulness_kept),
        gate=True,
        measures=("helpful_correct",),
    ),
    Rule(
        "babble_bound",
        "Replies are hardly more often broken than the base policy's.",
        _in_every_suite(babble),
        gate=True,
        measures=("babble",),
    ),
    Rule(
        "kl_bound",
        "The policy stays near its reference.",
        policy_kl,
        gate=True,
        bounds=("checks.max_kl",),
        measures=("kl",),
    ),
    Rule(
        "no_regression",
        "It is not worse than the promoted policy on the same prompts.",
        no_regression,
        gate=True,
        bounds=("checks.promotion_level",),
        measures=("refusal_minus_over_refusal", "refusal", "over_refusal", "helpful_correct"),
    ),
)
