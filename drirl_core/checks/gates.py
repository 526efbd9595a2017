"""The gates between a candidate and its promotion, and everything upstream that a promoted policy must keep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drirl_core.checks.asking import rules_of
from drirl_core.checks.verdicts import Verdict, judge
from drirl_core.errors import ArtifactError
from drirl_core.graph.planned import Named
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.store.manifest import artifacts_among


@dataclass(frozen=True)
class Gate:
    """The result of one gate.

    Args:
        asset: the asset that was judged.
        name: name of the rule.
        verdict: what it found.
    """

    asset: str
    name: str
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        label = self.name if self.asset == CANDIDATE else f"{self.asset} {self.name}"
        return {"gate": label, "passed": self.verdict.passed, "description": self.verdict.description}


def judge_candidate(project: Project, candidate: Artifact) -> list[Gate]:
    """Apply every gate of a candidate, and every blocking rule of all that it was made from.

    Args:
        project: the configuration, which holds the bounds, its graph and its store.
        candidate: a `promotion_candidate`.

    Returns:
        The gates of the candidate first, then the rules upstream in the order of the graph.
    """
    store, graph = project.store, project.graph
    found = [
        Gate(CANDIDATE, rule.name, judge(rule, candidate.path, project, graph.nodes[CANDIDATE]))
        for rule in rules_of(CANDIDATE)
    ]
    ancestors = dict(_ancestors(store, candidate))
    for node in graph.nodes.values():
        for rule in rules_of(node.stage) if node.name in ancestors else ():
            if rule.blocking:
                path = store.open(node.name, ancestors[node.name]).path
                found.append(Gate(node.name, rule.name, judge(rule, path, project, node)))
    return found


def _ancestors(store: ArtifactStore, artifact: Artifact) -> Iterator[tuple[str, str]]:
    """Yield name and version of every artifact that one was made from.

    Raises:
        ArtifactError: one is missing, so that its rules cannot be applied.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [artifact]
    while waiting:
        for name, version in artifacts_among(waiting.pop().manifest.get("inputs", {})).items():
            if (name, version) not in seen:
                seen.add((name, version))
                waiting.append(store.open(name, version))
                yield name, version


def candidate_of(project: Project, version: str | None = None, build: str = "drirl run") -> Artifact:
    """Return a candidate: the named one, else that of the configuration.

    Args:
        project: the configuration, its graph and its store.
        version: version, or its beginning, of a `promotion_candidate` or of its policy.
        build: the command that builds the configuration, for messages.

    Raises:
        ArtifactError: there is none, or the version names none or several.
    """
    store = project.store
    if version is None:
        return Named(project, build).one(CANDIDATE)
    known = {
        record["version"]: str(record.get("metadata", {}).get("policy", "")) for record in store.records(CANDIDATE)
    }
    found = [name for name, policy in known.items() if name.startswith(version) or policy.startswith(version)]
    if len(found) != 1:
        listed = ", ".join(f"{name} (policy {policy})" for name, policy in known.items()) or "there is none"
        raise ArtifactError(f"{version!r} names {len(found) or 'none'} of the candidates: {listed}")
    return store.open(CANDIDATE, found[0])
