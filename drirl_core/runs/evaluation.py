"""Measure any model on any suite, without the rest of the pipeline; the results are artifacts like all others.

Rows are answered through the row cache that the benchmarks use, so nothing is sampled twice, and `evaluation_<suite>`
holds the same files as `benchmark_<suite>`, with one policy.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import BEST_OF_N, SuiteConfig
from drirl_core.errors import ArtifactError, ConfigError, nearest
from drirl_core.graph.layout import SHIPPED_SUITES, suite_folder, suite_source
from drirl_core.graph.planned import Named
from drirl_core.graph.policies import CHECKPOINTS, NO_WEIGHTS
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.promotion import Ledger
from drirl_core.reporting import Reporter
from drirl_core.runs.measured import Measurement, measured_once
from drirl_core.runs.record import Results
from drirl_core.store.artifacts import Artifact, Workspace

if TYPE_CHECKING:
    from drirl_core.policy.best_of_n import Reranking

MEASURED = "model"
"""Name of the measured model in the tables."""
VERSION = "1"
"""Raised when the algorithm changes, so that no earlier evaluation is reused."""

_SCHEMES = ("hf", "path", "pypi")


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        label: as the user calls it.
        reference: model reference, or directory of a checkpoint.
        inputs: asset and version of the artifacts that decide the result.
        reranking: how completions are chosen; None for greedy decoding.
    """

    label: str
    reference: str | Path
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reranking: Reranking | None = None

    def best_of(self, reranking: Reranking) -> Subject:
        """Return the same model, decoded by best-of-N."""
        label = f"{self.label}, best of {reranking.samples}"
        return dataclasses.replace(self, label=label, inputs={**self.inputs, **reranking.versions}, reranking=reranking)


def find_subject(text: str, named: Named) -> Subject:
    """Find what a user wants to measure.

    Args:
        text: a model reference (`hf:`, `path:`, `pypi:`); `base`, `sft`, a baseline, `dr_irl` or a policy's asset, of
            the configuration; `promoted`; the name or id of a recorded result, whose policy is meant; or a directory.
        named: the configuration and its store.

    Raises:
        ArtifactError: a policy is not built, nothing is promoted, or nothing is called so.
        ConfigError: it has no weights of its own.
    """
    project = named.project
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _SCHEMES:
        return Subject(text, f"path:{Path(rest).expanduser().absolute()}" if scheme == "path" else text)
    if text == "base":
        return Subject(text, project.config.models.policy)
    if text == BEST_OF_N:
        raise ConfigError(f"{NO_WEIGHTS}; give sft here")
    built = [node.name for node in project.graph.nodes.values() if STAGES[node.stage].group == "policy"]
    if text in CHECKPOINTS or text in built:
        return _of(text, named.one(CHECKPOINTS.get(text, text)))
    if text == "promoted":
        current = Ledger(project.store).current()
        if current is None:
            raise ArtifactError(f"no policy is promoted in {project.store.place} yet; `drirl promote` promotes one")
        return _of(text, project.store.open("policy_checkpoint", current.policy))
    results = Results(project.store)
    present = results.present()
    recorded = {entry.alias: entry for entry in present} | {entry.id: entry for entry in present}
    recorded |= {entry.name: entry for entry in present}
    recorded.pop("", None)
    if text in recorded:
        return _of(text, results.open(recorded[text], "policy_checkpoint"))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Subject(text, folder.absolute())
    known = ["base", *CHECKPOINTS, "promoted", *built, *recorded]
    raise ArtifactError(
        f"{text!r} is neither a model reference (hf:org/name, path:DIRECTORY, pypi:package==version/file), nor a "
        f"directory, nor a policy or a recorded result; {nearest(text, known)}"
    )


def find_suites(
    texts: Sequence[str], project: Project, limit: int | None = None, prefill: str | None = None
) -> list[SuiteConfig]:
    """Find the suites that a user names.

    Args:
        texts: each the name of a suite of the configuration or of the package, `NAME=PATH` for a declared suite with
            the place of its files, or a directory with a `suite.yaml`; none for all suites of the configuration.
        project: the configuration.
        limit: rows per group at most; None for the limit of the configuration.
        prefill: words that every reply is made to begin with, under the name `<suite>_prefilled`; None for those of the
            configuration.

    Raises:
        ConfigError: a suite is unknown, lacks its files, or is named twice, or the prefill cannot be used.
    """
    own = {suite.name: suite for suite in project.config.benchmarks.suites}
    found = [_suite(text, own) for text in texts] or list(own.values())
    if limit is not None:
        found = [dataclasses.replace(suite, limit=limit) for suite in found]
    if prefill is not None:
        found = [_prefilled(suite, prefill) for suite in found]
    twice = [name for name, n in Counter(suite.name for suite in found).items() if n > 1]
    if twice:
        raise ConfigError(f"--suite {twice[0]} is given twice; give each suite once")
    return found


def evaluate(
    subject: Subject, suites: Sequence[SuiteConfig], project: Project, reporter: Reporter
) -> dict[str, Artifact]:
    """Let a model answer suites, greedily or by best-of-N, and judge its completions.

    Args:
        subject: what is measured.
        suites: what it is measured on; all of them are read before a model is loaded.
        project: the configuration (length of a reply, device, number type) and its store.
        reporter: gets progress.

    Returns:
        By suite an artifact `evaluation_<suite>`, with `replies.parquet`, `results.json` and `results.md`.

    Raises:
        DataError: a suite cannot be read.
        ModelError: the model cannot be found or loaded.
    """
    from drirl_core.benchmarks.judging import Judges
    from drirl_core.benchmarks.suites import load_suite

    Judges.of(project.config, project.store, reporter).check()
    for suite in suites:
        load_suite(suite)
    return {suite.name: _evaluate(subject, suite, project, reporter) for suite in suites}


def _prefilled(suite: SuiteConfig, prefill: str) -> SuiteConfig:
    """Return a suite whose replies begin with given words; its name says so, because its results are others."""
    from drirl_core.benchmarks.declared import declares_itself

    if not prefill:
        raise ConfigError("--prefill is empty; give the words that replies are to begin with, or leave it out")
    of = "" if declares_itself(suite) else suite.declared
    name = suite.name if suite.prefill else f"{suite.name}_prefilled"
    return dataclasses.replace(suite, name=name, of=of, prefill=prefill)


def _of(label: str, artifact: Artifact) -> Subject:
    return Subject(label, artifact.path, {artifact.asset: artifact.version})


def _suite(text: str, own: Mapping[str, SuiteConfig]) -> SuiteConfig:
    from drirl_core.benchmarks.declared import declarations
    from drirl_core.benchmarks.suites import OWN_SUITE

    name, equals, place = text.partition("=")
    if equals:
        return SuiteConfig(name, str(Path(place).expanduser().absolute()))
    if text in own:
        return own[text]
    if text in SHIPPED_SUITES:
        return SuiteConfig(text)
    folder = Path(text).expanduser()
    if (folder / OWN_SUITE).is_file():
        return SuiteConfig(re.sub(r"\W", "_", folder.absolute().name.lower()), str(folder.absolute()))
    if text in declarations():
        home = declarations()[text]["home"]
        raise ConfigError(
            f"--suite {text}: its files do not come with the package; get them from {home} and say where they are: "
            f"--suite {text}=PATH, or list the suite with its path in benchmarks.suites"
        )
    if folder.exists():
        raise ConfigError(
            f"--suite {text}: there is no {OWN_SUITE} in it, which says what its files hold; for a declared suite give "
            f"--suite NAME=PATH ({', '.join(declarations())})"
        )
    raise ConfigError(
        f"--suite {text!r} is no suite and no directory; {nearest(text, [*own, *SHIPPED_SUITES, *declarations()])}"
    )


def _evaluate(subject: Subject, suite: SuiteConfig, project: Project, reporter: Reporter) -> Artifact:
    """Evaluate one suite, or reuse the artifact that the same model, suite and settings gave earlier."""
    from drirl_core.benchmarks.judging import identity
    from drirl_core.models.loading import policy_key

    config = project.config
    settings = [
        policy_key(subject.reference, config.models),
        config.benchmarks.max_new_tokens,
        config.benchmarks.resamples,
        config.seed,
        _declaration(suite),
        suite.limit,
        *([{"prefill": suite.prefill}] if suite.prefill else []),
        *([subject.reranking.described] if subject.reranking else []),
        *identity(config),
    ]
    inputs = {suite_source(suite.name): source_version(suite_folder(suite.declared, suite.path)), **subject.inputs}
    asset, known = f"evaluation_{suite.name}", f"{suite.name}: evaluated before"
    what = Measurement(asset, VERSION, settings, inputs, subject.label, known)
    return measured_once(what, project, reporter, lambda own: _measure(subject, suite, project, own, reporter))


def _measure(
    subject: Subject, suite: SuiteConfig, project: Project, workspace: Workspace, reporter: Reporter
) -> dict[str, Any]:
    """Fill the workspace of one evaluation; return its metadata."""
    from drirl_core.benchmarks.examine import policy_examinee
    from drirl_core.benchmarks.judging import Judges
    from drirl_core.benchmarks.stage import GREEDY, Scoring, answer, judged, write_results
    from drirl_core.benchmarks.suites import PAIRED, find_suite, load_suite
    from drirl_core.graph.build import Context

    config, rows, reranking = project.config, load_suite(suite), subject.reranking
    context = Context(
        config, None, {}, workspace.out, workspace.scratch, project.store, reporter, suite.name, project.graph
    )
    judges = Judges.of(config, project.store, reporter)
    if reranking is None:
        replies = answer(context, MEASURED, subject.reference, rows, suite.prefill)
    else:
        limit, prompts = config.benchmarks.max_new_tokens, [row.prompt for row in rows]
        begun = dataclasses.replace(reranking, prefill=suite.prefill)
        chosen = begun.decode(subject.reference, prompts, limit, config, project.store, reporter)
        replies = judged(MEASURED, rows, [choice.best for choice in chosen])
    replies = judges.judge(replies)
    examinee = policy_examinee(MEASURED, [reply for reply in replies if reply.row.group in PAIRED], None)
    scoring = Scoring({"kind": "none"})
    decoding = reranking.described if reranking else GREEDY
    write_results(context, find_suite(suite), rows, replies, [examinee], scoring, decoding, judges)
    return {"prompts": len(rows), "tokens": sum(reply.tokens for reply in replies)}


def _declaration(suite: SuiteConfig) -> Any:
    """Return what the package declares of a suite; the declaration of an own suite is among its files."""
    from drirl_core.benchmarks.declared import declarations, declares_itself

    return None if declares_itself(suite) else declarations().get(suite.declared)
