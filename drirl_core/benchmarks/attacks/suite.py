"""From a suite and a policy to an attacked suite: a directory that every policy can be measured on.

It is a directory and no stage of the graph: the prompts of a suite are kept out of the training data, so that a suite
which depends on a trained policy would decide the data that this policy is trained on.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drirl_core.benchmarks.attacks.gcg import PACKAGE, Attacked, Search, attack, library_version, require_known
from drirl_core.benchmarks.declared import OWN_SUITE
from drirl_core.benchmarks.suites import BenchmarkRow, Suite, find_suite, load_suite
from drirl_core.config import SuiteConfig
from drirl_core.config.reading import require
from drirl_core.errors import DataError
from drirl_core.models.loading import Policy, load_policy
from drirl_core.project import Project
from drirl_core.reporting import Reporter
from drirl_core.runs.evaluation import Subject
from drirl_core.store.rowcache import RowCache, content_key

ROWS = "attacked.jsonl"


@dataclass(frozen=True)
class Made:
    """An attacked suite.

    Args:
        folder: directory with `suite.yaml` and its rows.
        rows: the rows, as written.
        left_out: prompts that the library could not attack, with the reasons.
    """

    folder: Path
    rows: Sequence[Mapping[str, Any]]
    left_out: Sequence[str]


def attack_suite(
    subject: Subject,
    suite: SuiteConfig,
    search: Search,
    target: str,
    folder: Path,
    project: Project,
    reporter: Reporter,
) -> Made:
    """Attack the unsafe prompts of a suite against a policy, and write what was found as a suite.

    Rows that an earlier or interrupted call found are reused.

    Args:
        subject: the policy that is attacked.
        suite: whose unsafe prompts are attacked; its limit counts.
        search: how much is searched per prompt.
        target: how replies should begin; `{category}` stands for the category of the prompt.
        folder: directory to write, which must not exist.
        project: the configuration (device, number type) and its store.
        reporter: gets progress.

    Returns:
        What was written.

    Raises:
        ConfigError: the library is not installed or cannot attack this model, the target says nothing, or the directory
            exists.
        DataError: the suite cannot be read, has no unsafe prompt, or none that can be attacked.
        ModelError: the model cannot be found or loaded.
    """
    library = f"{PACKAGE} {library_version()}"
    require(bool(target) and target.strip() == target, f"the target is {target!r}; give words, no blank around them")
    require(not folder.exists(), f"{folder} exists, and an attack overwrites nothing; give another directory")
    source, asked = find_suite(suite), [row for row in load_suite(suite) if row.group == "unsafe"]
    if not asked:
        raise DataError(f"suite {suite.name!r} has no unsafe prompts, and attacks are of these; choose another suite")
    policy = load_policy(subject.reference, project.config.models)
    require_known(policy, subject.label)
    what = f"{search.steps} steps of {search.candidates} candidates each"
    reporter.log(f"{subject.label}: {len(asked)} prompts of {suite.name}, {what}")
    cache, rows, left_out = RowCache(project.store.cache_path("attacks")), list[dict[str, Any]](), list[str]()
    for number, row in enumerate(asked, 1):
        wanted = target.replace("{category}", row.category.replace("_", " "))
        try:
            found = _kept(cache, policy, row.prompt, wanted, search, library)
        except DataError as error:
            left_out.append(str(error))
            reporter.log(str(error))
            continue
        rows.append(_row(row, found, wanted, search, subject.label, policy.key, library))
        change = f"{found.loss_before:.2f} -> {found.loss:.2f}"
        reporter.log(f"prompt {number} of {len(asked)}: loss of the target {change} nats per token")
    if not rows:
        raise DataError(f"none of {len(asked)} unsafe prompts of {suite.name!r} can be attacked; first: {left_out[0]}")
    _write(folder, source, rows, subject.label)
    return Made(folder, rows, left_out)


def _kept(cache: RowCache, policy: Policy, prompt: str, target: str, search: Search, library: str) -> Attacked:
    """Return what an earlier call found for a prompt, or search for it."""
    key = content_key("gcg", library, policy.key, prompt, target, dataclasses.asdict(search))
    known = cache.get_many([key])
    if key in known:
        return Attacked(**json.loads(known[key]))
    found = attack(policy, prompt, target, search)
    cache.put_many({key: json.dumps(dataclasses.asdict(found)).encode()})
    return found


def _row(
    row: BenchmarkRow, found: Attacked, target: str, search: Search, label: str, weights: str, library: str
) -> dict[str, Any]:
    """Return a row of the attacked suite: the prompt to ask, and how it came about."""
    how = {"attack": "gcg", "library": library, "against": label, "weights": weights, **dataclasses.asdict(search)}
    losses = {"loss_before": found.loss_before, "loss": found.loss}
    asked = {"prompt": found.prompt, "category": row.category, "asked": row.prompt, "suffix": found.suffix}
    return {**asked, "target": target, **losses, **how}


def _write(folder: Path, source: Suite, rows: Sequence[Mapping[str, Any]], label: str) -> None:
    """Write the complete directory, or nothing."""
    declared = {
        "version": "1",
        "licence": source.licence,
        "home": f"the unsafe prompts of {source.name} with suffixes by GCG against {label}, made by `drirl attack`",
        "groups": {"unsafe": {"file": [ROWS], "prompt": "prompt", "category": ["category"]}},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        made = Path(place) / folder.name
        made.mkdir()
        (made / ROWS).write_text("".join(_lines(rows)), encoding="utf-8")
        (made / OWN_SUITE).write_text(yaml.safe_dump(declared, sort_keys=False), encoding="utf-8")
        made.rename(folder)


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
