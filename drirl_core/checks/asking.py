"""Apply the rules of an artifact: for the Dagster checks, before a run builds on it, and in plain Python.

Each rule gives a verdict with the numbers and bounds it compared. The rules of a stage are named by its record.
"""

from collections.abc import Sequence
from pathlib import Path

from drirl_core.checks.verdicts import Rule, judge
from drirl_core.errors import CheckError
from drirl_core.graph.layout import Node
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project


def rules_of(stage: str) -> Sequence[Rule]:
    """Return the rules of a stage, in order; none where its record names none.

    Args:
        stage: key into `STAGES`.
    """
    name = STAGES[stage].checks
    return lazy(name) if name else ()


def broken_promises(node: Node, path: Path, project: Project) -> list[str]:
    """Return what a published artifact breaks of the blocking rules of its stage, gates left out.

    Args:
        node: the asset.
        path: directory of the artifact.
        project: the configuration, which holds the bounds, its graph and its store.

    Returns:
        Name of the rule and what it found, for each that is broken.
    """
    rules = [rule for rule in rules_of(node.stage) if rule.blocking and not rule.gate]
    verdicts = {rule.name: judge(rule, path, project, node) for rule in rules}
    return [f"{name}: {verdict.description}" for name, verdict in verdicts.items() if not verdict.passed]


def require_kept(node: Node, path: Path, project: Project) -> None:
    """Refuse an artifact that breaks a blocking rule.

    Args:
        node: the asset.
        path: directory of the artifact.
        project: the configuration, which holds the bounds, its graph and its store.

    Raises:
        CheckError: it breaks a blocking rule; the message says which, and what was found.
    """
    broken = broken_promises(node, path, project)
    if broken:
        raise CheckError(
            f"{node.name} breaks {'; '.join(broken)}. Nothing is built on it: fix its data or settings, or the bound "
            f"in the section `checks`, and run again; what was judged is in {path}"
        )
