"""What a rule is, and its verdict on an artifact."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl_core.config import Config
from drirl_core.graph.layout import Node
from drirl_core.project import Project


@dataclass(frozen=True)
class Verdict:
    """What a rule found.

    Args:
        passed: whether the rule holds.
        description: one sentence with the numbers that decided.
        metadata: the numbers and thresholds, for display.
    """

    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One rule for the artifacts of a stage.

    Args:
        name: name of the check.
        description: what the rule requires.
        judge: looks at the artifact's directory, the project and the node.
        blocking: whether nothing may be built on an artifact that breaks it; else it is a warning.
        gate: whether it guards the promotion of a policy alone: an artifact that breaks it is a valid result.
        bounds: dotted settings of the section `checks` that it compares with: when one changes, the rule is applied
            again.
        measures: numbers of its verdicts that are worth plotting over time, by their own name or a part of it; bounds,
            and counts that are 0 whenever it passes, are not.
    """

    name: str
    description: str
    judge: Callable[[Path, Project, Node], Verdict]
    blocking: bool = True
    gate: bool = False
    bounds: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()

    def measured(self, name: str) -> bool:
        """Say whether a number of a verdict is worth plotting over time."""
        return not {name, *name.split("/")}.isdisjoint(self.measures)

    def bounds_of(self, config: Config) -> str:
        """Return its bounds and their values, for comparison with those of its last verdict."""
        return ", ".join(f"{name}={operator.attrgetter(name)(config)}" for name in self.bounds)


def judge(rule: Rule, path: Path, project: Project, node: Node) -> Verdict:
    """Apply a rule; a file that is missing or unreadable breaks it.

    Args:
        rule: the rule.
        path: directory of the artifact.
        project: the configuration, which holds the bounds, its graph and its store.
        node: the asset.
    """
    try:
        return rule.judge(path, project, node)
    except (OSError, ValueError, KeyError) as error:  # DataError and JSONDecodeError are ValueErrors
        return Verdict(False, f"{node.name} cannot be judged: {type(error).__name__}: {error}")


def gather(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Return one verdict for several, which passes when all of them do.

    Args:
        verdicts: verdicts by what was judged.
    """
    numbers = {f"{name}/{key}": value for name, verdict in verdicts.items() for key, value in verdict.metadata.items()}
    text = "; ".join(f"{name}: {verdict.description}" for name, verdict in verdicts.items())
    return Verdict(all(verdict.passed for verdict in verdicts.values()), text, numbers)
