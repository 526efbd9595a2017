"""Move the promoted policy: by the graph, or by hand, with everything recorded in both the ledger and the instance."""

import getpass
import socket
from collections.abc import Sequence

import dagster as dg

from drirl_core.checks.gates import judge_candidate
from drirl_core.graph.origin import other_settings
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE, Ledger, NotPromotedError, Promotion, left_by_rollback
from drirl_core.store.artifacts import Artifact
from pipeline.wiring.code_references import code_references
from pipeline.wiring.conditions import PROMOTE
from pipeline.wiring.display import markdown_table
from pipeline.wiring.freshness import promoted_freshness
from pipeline.wiring.resolve import VERSION_TAG, artifact_of

PROMOTED = "promoted_policy"
CODE_VERSION = "1"
_UNMOVED = "the promoted policy stays what it was"
_DIFFERENCES_SHOWN = 3


def promoted_policy(project: Project, owners: list[str]) -> dg.AssetsDefinition:
    """Return the asset that moves the pointer once every gate of the newest candidate passes.

    What only a person should decide it refuses: an experiment, and a policy that somebody went back from.

    Args:
        project: the configuration and its store; `promotion.automatic` decides whether it moves by itself.
        owners: owners of the asset.
    """

    @dg.asset(
        name=PROMOTED,
        deps=[CANDIDATE],
        group_name="report",
        description="The policy that may be used: the newest candidate whose gates all passed. `drirl rollback` moves it back.",
        code_version=CODE_VERSION,
        automation_condition=PROMOTE if project.config.promotion.automatic else None,
        freshness_policy=promoted_freshness(project.config),
        owners=owners,
        kinds={"python"},
        tags={"drirl/stage": PROMOTED, "drirl/cost": "light"},
        metadata=code_references(f"{__name__}:promoted_policy", project.config),
    )
    def promote(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        candidate, history = artifact_of(context.instance, CANDIDATE, project), ledger(project).history()
        refusal = left_to_people(project, candidate, history)
        if refusal:
            raise dg.Failure(f"{_UNMOVED}: {refusal}", allow_retries=False)
        before = history[-1] if history else None
        rows = [gate.row() for gate in judge_candidate(project, candidate)]
        by = f"{person()}, run {context.run_id}"
        try:
            moved = ledger(project).promote(
                candidate.version, by=by, why="all gates passed", gates=rows, judged_after=before
            )
        except NotPromotedError as error:
            raise dg.Failure(f"{_UNMOVED}: {error}", allow_retries=False) from error
        return dg.MaterializeResult(metadata=shown(moved, project), data_version=dg.DataVersion(moved.policy))

    return promote


def left_to_people(project: Project, candidate: Artifact, history: Sequence[Promotion]) -> str | None:
    """Say why a candidate is promoted by a person or not at all; None when the gates alone decide.

    Args:
        project: the settings of the definitions, and the store.
        candidate: a `promotion_candidate`.
        history: every move of the pointer, the oldest first.

    Raises:
        UnreachableError: the object store cannot be asked.
    """
    policy = str(candidate.metadata["policy"])
    by_hand = f"`drirl promote --candidate {candidate.version}` promotes it by hand"
    left = left_by_rollback(history, policy)
    if left:
        return (
            f"{left.by} went back from policy {policy} to {left.policy} at {left.at} ({left.why}), so automation does not promote "
            f"candidate {candidate.version}; {by_hand}"
        )
    differences = other_settings(project, candidate)
    if differences:
        more = f" and {len(differences) - _DIFFERENCES_SHOWN} more" if len(differences) > _DIFFERENCES_SHOWN else ""
        listed = "; ".join(differences[:_DIFFERENCES_SHOWN]) + more
        return f"candidate {candidate.version} was made with other settings than the present ones ({listed}); {by_hand}"
    return None


def ledger(project: Project) -> Ledger:
    """Return the ledger of a project's artifact store."""
    return Ledger(project.store)


def person() -> str:
    """Return who this process works for, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def record(instance: dg.DagsterInstance, moved: Promotion, project: Project) -> None:
    """Tell the instance of a move made by hand, so that the graph shows it and does not undo it.

    Args:
        instance: the instance.
        moved: what the ledger says.
        project: names the artifact store.
    """
    tags = {VERSION_TAG: moved.policy, "dagster/code_version": CODE_VERSION}
    newest = instance.fetch_materializations(dg.AssetKey(CANDIDATE), limit=1).records
    if (
        newest and newest[0].asset_materialization
    ):  # counts as seen: after a rollback, automation waits for another candidate
        tags[f"dagster/input_data_version/{CANDIDATE}"] = (newest[0].asset_materialization.tags or {})[VERSION_TAG]
        tags[f"dagster/input_event_pointer/{CANDIDATE}"] = str(newest[0].storage_id)
    instance.report_runless_asset_event(dg.AssetMaterialization(PROMOTED, metadata=shown(moved, project), tags=tags))


def shown(moved: Promotion, project: Project) -> dict[str, dg.MetadataValue]:
    """Return what the graph shows of a move: which policy, who, when, why, and every gate."""
    policy = project.store.open("policy_checkpoint", moved.policy)
    metadata: dict[str, dg.MetadataValue] = {
        "policy": dg.MetadataValue.text(moved.policy),
        "candidate": dg.MetadataValue.text(moved.candidate),
        "action": dg.MetadataValue.text(moved.action),
        "by": dg.MetadataValue.text(moved.by),
        "at": dg.MetadataValue.text(moved.at),
        "why": dg.MetadataValue.text(moved.why),
        "forced": dg.MetadataValue.bool(moved.forced),
        "path": dg.MetadataValue.path(str(policy.path)),
    }
    if moved.gates:
        metadata["gates"] = dg.MetadataValue.md(markdown_table(moved.gates))
    return metadata
