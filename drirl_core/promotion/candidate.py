"""The asset `promotion_candidate`: the aligned policy with the evidence that decides whether it is promoted.

It holds copies, so that a later candidate can be compared with a promoted one whose benchmarks have been deleted.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ArtifactError

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

CANDIDATE = "promotion_candidate"
_POLICY = "policy_checkpoint"
_EVIDENCE = ("results.json", "replies.parquet")


def build_candidate(context: Context) -> dict[str, Any]:
    """Collect the results of every suite and the training metrics of one policy.

    Writes `candidate.json` (which policy, which suites), `metrics.json` of its training and, in one directory per
    suite, `results.json` and `replies.parquet`.

    Args:
        context: inputs are `policy_checkpoint` and every `benchmark_<suite>`.

    Returns:
        Versions of the policy and of its benchmarks.

    Raises:
        ArtifactError: an input lacks a file.
    """
    policy = context.inputs[_POLICY]
    suites = context.named("benchmark")
    copy_file(policy / "metrics.json", context.out / "metrics.json")
    for suite, folder in suites.items():
        (context.out / suite).mkdir()
        for name in _EVIDENCE:
            copy_file(folder / name, context.out / suite / name)
    versions = {suite: folder.name for suite, folder in suites.items()}
    candidate = {"policy": policy.name, "benchmarks": versions}
    (context.out / "candidate.json").write_text(
        json.dumps(candidate, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return {"policy": policy.name, **{f"benchmark/{suite}": version for suite, version in versions.items()}}


def copy_file(source: Path, target: Path) -> None:
    """Copy one file of an upstream artifact.

    Raises:
        ArtifactError: the file is missing.
    """
    if not source.is_file():
        raise ArtifactError(f"{source} is missing; delete {source.parent} and materialize its asset again")
    shutil.copyfile(source, target)
