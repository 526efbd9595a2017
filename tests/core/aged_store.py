"""Artifacts that look old, for the tests of retention."""

from __future__ import annotations

import json
import time

from drirl_core.promotion import Ledger
from drirl_core.retention import Decision, Deleted, Key, decide, place_of, promoted
from drirl_core.store.artifacts import Artifact, ArtifactStore

HOUR, DAY = 3600.0, 86400.0


def publish(
    store: ArtifactStore, asset: str, content: str, inputs: dict[str, str] | None = None, age_s: float = 0.0
) -> Artifact:
    """Publish an artifact that looks `age_s` old."""
    key = f"{asset}{content}".replace(" ", "-")
    with store.building(asset, key) as workspace:
        (workspace.out / "rows.txt").write_text(content)
        (workspace.out / "deep").mkdir()
        (workspace.out / "deep" / "more.txt").write_text(content * 2)
        artifact = store.publish(asset, key, workspace, details={"metadata": {}, "inputs": inputs or {}})
    age(store, artifact, key, age_s)
    return artifact


def age(store: ArtifactStore, artifact: Artifact, key: str, age_s: float) -> None:
    """Let an artifact look `age_s` old, here and for other machines."""
    at = time.time() - age_s
    index = store.root / artifact.asset / "by-input" / f"{key}.json"
    index.write_text(json.dumps({"version": artifact.version, "used_at": at}))
    manifest = artifact.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "created_at": at}))
    if store.remote:
        for file in (index, manifest):
            store.remote.put(file, file.relative_to(store.root).as_posix())


def collect(store: ArtifactStore, roots: set[Key] = frozenset(), keep_s: float = HOUR) -> Decision:  # type: ignore[assignment]
    """Do what `drirl gc --delete` does."""
    newer_than = time.time() - keep_s
    roots = {*promoted(store), *roots}
    decision = decide(place_of(store).take_stock(newer_than), roots, newer_than)
    assert place_of(store).delete(decision) == Deleted(decision.removable, decision.leftovers)
    return decision


def promote(store: ArtifactStore, at: float) -> set[Key]:
    """Publish a policy, its pool and its candidate, promote it, and let newer versions follow; return what the policy needs."""
    pool = publish(store, "pool", f"p{at}", age_s=at)
    policy = publish(store, "policy_checkpoint", f"p{at}", {"pool": pool.version}, age_s=at)
    with store.building("promotion_candidate", f"c{at}") as workspace:
        (workspace.out / "candidate.json").write_text(json.dumps({"policy": policy.version}))
        details = {"metadata": {}, "inputs": {"policy_checkpoint": policy.version}}
        candidate = store.publish("promotion_candidate", f"c{at}", workspace, details=details)
    age(store, candidate, f"c{at}", at)
    Ledger(store).promote(candidate.version, by="me", why="good")
    return {("pool", pool.version), ("policy_checkpoint", policy.version), ("promotion_candidate", candidate.version)}
