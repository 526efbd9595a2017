"""Whether the aligned policy passes the gates of a promotion at the time the page is written.

The gates' bounds decide no artifact, so the page is not rebuilt when one changes; the section says so and names the
command that judges again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drirl_core.checks.asking import rules_of
from drirl_core.checks.verdicts import Verdict, judge
from drirl_core.errors import DrirlError
from drirl_core.graph.build import Context
from drirl_core.graph.layout import Node
from drirl_core.promotion.candidate import CANDIDATE, build_candidate

_NOTE = (
    "Judged with the bounds that the section checks of the configuration had when this page was made, and against the "
    "policy that was promoted then. After a change, drirl promote --check judges again; it also applies the blocking "
    "checks of everything upstream."
)


def gates_section(context: Context) -> dict[str, Any]:
    """Judge the policy by each gate.

    Args:
        context: inputs are `policy_checkpoint` and every `benchmark_<suite>`; its store holds the promoted policy.

    Returns:
        `rows` (rule, passed, found: one text per suite), `sentence` and its `tone`, `note`.

    Raises:
        ArtifactError: an input lacks a file.
    """
    node = context.graph.nodes.get(CANDIDATE, Node(CANDIDATE, CANDIDATE, None, (), ""))
    with _candidate(context) as folder:
        found = [(rule, _judged(rule, folder, context, node)) for rule in rules_of(CANDIDATE) if rule.gate]
    suites = "|".join(re.escape(suite.name) for suite in context.config.benchmarks.suites)
    per_suite = re.compile(rf"; (?=(?:{suites}|every suite): )")
    rows = [
        {"rule": rule.description, "passed": verdict.passed, "found": per_suite.split(verdict.description)}
        for rule, verdict in found
    ]
    failed = sum(not row["passed"] for row in rows)
    sentence = (
        f"All {len(rows)} gates hold: this policy may be promoted."
        if not failed
        else f"{failed} of {len(rows)} gates {'fails' if failed == 1 else 'fail'}: this policy is not promoted unless "
        "somebody overrules."
    )
    return {"rows": rows, "sentence": sentence, "tone": "loss" if failed else "win", "note": _NOTE}


def _judged(rule: Any, folder: Path, context: Context, node: Node) -> Verdict:
    try:
        return judge(rule, folder, context.project, node)
    except DrirlError as error:  # the store with the promoted policy cannot be reached, for example
        return Verdict(False, f"not judged: {error}")


@contextlib.contextmanager
def _candidate(context: Context) -> Iterator[Path]:
    """Yield the published candidate of these inputs, else one that is made for the moment.

    The page and the candidate are made from the same inputs, in any order.
    """
    published = _published(context)
    if published is not None:
        yield published
        return
    with tempfile.TemporaryDirectory(dir=context.scratch) as made:
        build_candidate(dataclasses.replace(context, out=Path(made)))
        yield Path(made)


def _published(context: Context) -> Path | None:
    """Return the directory of the candidate with the same policy and benchmarks, which a promotion would name."""
    suites = {f"benchmark/{suite}": folder.name for suite, folder in context.named("benchmark").items()}
    wanted = {"policy": context.inputs["policy_checkpoint"].name, **suites}
    try:
        for record in context.store.records(CANDIDATE):
            found = record.get("metadata", {})
            if {name: found.get(name) for name in wanted} == wanted:
                return context.store.open(CANDIDATE, record["version"]).path
    except DrirlError:  # deleted since, or out of reach: one is made from the inputs
        return None
    return None
