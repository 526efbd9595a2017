"""What an export is made of: a checkpoint, what it was made from, its benchmarks and its gates."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.judges.recorded import recorded_errors
from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.checks.gates import Gate, judge_candidate
from drirl_core.config import BEST_OF_N, Config
from drirl_core.errors import ConfigError, nearest
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.planned import Named
from drirl_core.graph.policies import CHECKPOINTS, NO_WEIGHTS
from drirl_core.policy.readme import data_rows
from drirl_core.promotion import CANDIDATE
from drirl_core.report.reading import read_json
from drirl_core.store.artifacts import Artifact
from drirl_core.store.manifest import artifacts_among
from drirl_core.taxonomy import HELPFUL

_START = "sft_checkpoint"


@dataclass(frozen=True)
class Material:
    """The artifacts of one policy.

    Args:
        config: the configuration that made it.
        policy: its name in results, a key of `CHECKPOINTS`.
        checkpoint: its weights.
        trained: the checkpoints that were trained one after the other, this one last.
        benchmarks: artifact of each suite, in the order of the configuration.
        datasets: data set by asset name.
        gates: those of its promotion; none for a policy that is no candidate.
        judge_errors: what is recorded of a judge behind an endpoint; None where none judged.
    """

    config: Config
    policy: str
    checkpoint: Artifact
    trained: tuple[Artifact, ...]
    benchmarks: tuple[Artifact, ...]
    datasets: Mapping[str, Artifact]
    gates: tuple[Gate, ...]
    judge_errors: Sequence[Mapping[str, Any]] | None = None

    @functools.cached_property
    def results(self) -> list[dict[str, Any]]:
        """Content of `results.json` of each suite, with what is recorded of their judge.

        Raises:
            ArtifactError: one is missing or damaged.
        """
        recorded = {} if self.judge_errors is None else {"judge_errors": self.judge_errors}
        return [{**read_json(found.path, "results.json", found.asset), **recorded} for found in self.benchmarks]

    @functools.cached_property
    def metrics(self) -> Mapping[str, Any]:
        """Numbers at the end of training."""
        return read_json(self.checkpoint.path, "metrics.json", self.checkpoint.asset)

    @functools.cached_property
    def data(self) -> Sequence[tuple[Any, ...]]:
        """One row per data set, see `data_rows`."""
        return data_rows({name: found.path for name, found in self.datasets.items()})

    @property
    def failed(self) -> list[Gate]:
        """The gates that fail."""
        return [gate for gate in self.gates if not gate.verdict.passed]

    @property
    def versions(self) -> dict[str, str]:
        """Version of every artifact that the export holds or quotes."""
        found = [*self.trained, *self.benchmarks, *(self.datasets[name] for name in sorted(self.datasets))]
        return {one.asset: one.version for one in found}

    @property
    def slug(self) -> str:
        """Name of the folder: that of the configuration, and of the policy where it is not the aligned one."""
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.config.name)
        own = plain.strip("-.") or "policy"
        return own if self.policy == ALIGNED else f"{own}-{self.policy}"


def gather(named: Named, policy: str = ALIGNED) -> Material:
    """Open everything that an export of one policy needs.

    Args:
        named: the configuration, or a recorded result.
        policy: name in results, a key of `CHECKPOINTS`.

    Raises:
        ConfigError: there is no such policy, or it has no weights of its own.
        ArtifactError: something is not built yet; the message says which command builds it.
    """
    if policy == BEST_OF_N:
        raise ConfigError(f"--show {policy}: {NO_WEIGHTS}; --show sft exports the start")
    if policy not in CHECKPOINTS:
        raise ConfigError(f"--show {policy!r} is no policy; {nearest(policy, CHECKPOINTS)}")
    project = named.project
    suites = [f"benchmark_{suite.name}" for suite in project.config.benchmarks.suites]
    gated = [CANDIDATE] if policy == ALIGNED else []
    found = named.open(CHECKPOINTS[policy], *suites, *gated)
    checkpoint = found[CHECKPOINTS[policy]]
    inputs = artifacts_among(checkpoint.manifest.get("inputs", {}))
    known = {dataset_name(category) for category in (*project.graph.categories, HELPFUL)}
    started = policy != "sft" and project.config.policy.start == "sft"
    start = [project.store.open(_START, inputs[_START])] if started else []
    return Material(
        project.config,
        policy,
        checkpoint,
        (*start, checkpoint),
        tuple(found[name] for name in suites),
        {name: project.store.open(name, version) for name, version in inputs.items() if name in known},
        tuple(judge_candidate(project, found[CANDIDATE])) if gated else (),
        recorded_errors(project.config, project.store),
    )


def weights_of(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that a model is loaded from, its adapter left out.

    Args:
        folder: of the checkpoint.
    """
    from drirl_core.models.digests import deciding_files
    from drirl_core.policy.adapter_files import FOLDER

    return [file for file in deciding_files(folder) if file.relative_to(folder).parts[0] != FOLDER]
