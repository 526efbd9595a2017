"""Hand-made results of runs and evaluations, for the tests of comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from drirl_core.runs.record import Result, Results
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import prompt_id, write_table

_STRING = pa.string()
COLUMNS = pa.schema(
    [(name, _STRING) for name in ("group", "category", "prompt_id", "prompt", "policy", "reply", "label")]
    + [("correct", pa.bool_())]
)


def rows(policy: str, unsafe: Sequence[bool], safe: Sequence[bool] = (), correct: Sequence[bool] = ()) -> list[dict]:
    """Return replies: whether each unsafe and each safe prompt was refused, and which helpful replies are correct."""
    found = []
    for group, outcomes in (("unsafe", unsafe), ("safe_look_alike", safe), ("helpful", correct)):
        for number, outcome in enumerate(outcomes):
            refused = outcome and group != "helpful"
            prompt = f"<b>{group}</b> prompt {number}?"
            found.append(
                {
                    "group": group,
                    "category": "insult",
                    "prompt_id": prompt_id(prompt),
                    "prompt": prompt,
                    "policy": policy,
                    "reply": "I cannot help with that." if refused else f"Sure, {group}: {'step & ' * 80}",
                    "label": "refusal" if refused else "compliance",
                    "correct": outcome if group == "helpful" else None,
                }
            )
    return found


def publish(store: ArtifactStore, asset: str, replies: list[dict], **facts: Any) -> str:
    """Publish an artifact with replies and the facts of `results.json` that a comparison reads; return its version."""
    known = {"version": "1", "max_new_tokens": 32, "judge": "rules", **facts}
    results = {
        "suite": {"name": asset.partition("_")[2], "version": known["version"]},
        "decoding": {"max_new_tokens": known["max_new_tokens"]},
        "judge": known["judge"] if isinstance(known["judge"], dict) else {"judge": known["judge"]},
    }
    key = f"{asset} {len(store.records(asset))}"
    with store.building(asset, key) as workspace:
        write_table(workspace.out / "replies.parquet", replies, COLUMNS)
        (workspace.out / "results.json").write_text(json.dumps(results))
        return store.publish(asset, key, workspace, details={"metadata": {}, "inputs": {}}).version


def record(
    store: ArtifactStore, name: str, replies: dict[str, list[dict]], config: dict | None = None, **facts: Any
) -> Result:
    """Record a run with one benchmark per suite."""
    versions = {
        f"benchmark_{suite}": publish(store, f"benchmark_{suite}", own, **facts) for suite, own in replies.items()
    }
    entry = Result(
        "run", name, "demo", "demo.yaml", versions=versions, config=config or {}, at="2026-01-02T03:04:05+00:00"
    )
    return Results(store).record(entry)
