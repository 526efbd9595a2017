"""When an asset is recomputed automatically: when its inputs or its code really changed.

Dagster's own conditions react to events ("an input was materialized"). These compare states ("the asset was built from
another version than its input has now"). So an input that is rebuilt with the same content causes no run, and a lost
event is noticed on the next tick.
"""

import dagster as dg
from dagster import AutomationCondition as Condition

from pipeline.wiring.private import CachingStaleStatusResolver, StaleStatus

BOUNDS = "bounds"
"""Metadata key of a check: the settings it compared with, and their values."""


class Stale(dg.AutomationCondition):
    """True while the asset was built from other input versions, or by other code, than the current ones."""

    @property
    def name(self) -> str:
        """Return the name shown in the evaluation."""
        return "stale"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Compare recorded versions with current ones."""
        hit = _is_stale(context)
        return dg.AutomationResult(context, context.candidate_subset if hit else context.get_empty_subset())


class StaleAndNotAttempted(dg.AutomationCondition):
    """Like `Stale`, but false after a failed or cancelled attempt until an input changes again."""

    @property
    def name(self) -> str:
        """Return the name shown in the evaluation."""
        return "stale_and_not_attempted"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Compare versions, then look for an attempt newer than the asset and all its inputs."""
        hit = _is_stale(context) and not _attempted(context)
        return dg.AutomationResult(context, context.candidate_subset if hit else context.get_empty_subset())


class SkippedWithItsAsset(dg.AutomationCondition):
    """True for a check that was planned in the run of its asset but did not run, because another asset failed."""

    @property
    def name(self) -> str:
        """Return the name shown in the evaluation."""
        return "skipped_with_its_asset"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Look for a finished run that built the asset but skipped the check."""
        instance, key = context.asset_graph_view.instance, context.key
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        made = instance.get_latest_data_version_record(key.asset_key)
        hit = (
            latest is not None
            and made is not None
            and latest.status.value == "PLANNED"
            and latest.run_id == made.run_id
        )
        return dg.AutomationResult(context, context.candidate_subset if hit else context.get_empty_subset())


class MadeWithOtherSettings(dg.AutomationCondition):
    """True while any upstream asset was last built with other settings or code than those of the definitions.

    Such an asset is an experiment (for example `drirl run --set ...`) or was built before the settings changed. The
    condition makes one query per upstream asset, so it is the last part of a conjunction: it makes no query when an
    earlier part is false.
    """

    @property
    def name(self) -> str:
        """Return the name shown in the evaluation."""
        return "made_with_other_settings"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Compare the recorded code versions of all ancestors, which hash their settings, with the current ones."""
        hit = not context.candidate_subset.is_empty and any(
            _made_otherwise(key, context) for key in _ancestors(context)
        )
        return dg.AutomationResult(context, context.candidate_subset if hit else context.get_empty_subset())


def _ancestors(context: dg.AutomationContext) -> set[dg.AssetKey]:
    found: set[dg.AssetKey] = set()
    waiting = [context.key]
    while waiting:
        parents = context.asset_graph.get(waiting.pop()).parent_keys - found
        found |= parents
        waiting += parents
    return found


def _made_otherwise(key: dg.AssetKey, context: dg.AutomationContext) -> bool:
    present = context.asset_graph.get(key).code_version
    record = context.asset_graph_view.instance.get_latest_data_version_record(key) if present else None
    made = record.event_log_entry.asset_materialization if record else None
    return made is not None and (made.tags or {}).get("dagster/code_version") != present


class JudgedByOtherBounds(dg.AutomationCondition):
    """True for a check whose last result used other bounds than the current ones; its asset need not be recomputed.

    Args:
        bounds: the current ones, in the form in which results store them under `BOUNDS`.
    """

    def __init__(self, bounds: str) -> None:
        self.bounds = bounds

    @property
    def name(self) -> str:
        """Return the name shown in the evaluation."""
        return "judged_by_other_bounds"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Look up the bounds of the last result; a check without a result is not repeated for this reason."""
        latest = context.asset_graph_view.instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [context.key]
        ).get(context.key)
        verdict = latest.evaluation if latest is not None else None
        then = verdict.metadata.get(BOUNDS) if verdict is not None else None
        hit = verdict is not None and (then.value if then is not None else "") != self.bounds
        return dg.AutomationResult(context, context.candidate_subset if hit else context.get_empty_subset())


def _is_stale(context: dg.AutomationContext) -> bool:
    view = context.asset_graph_view
    status = CachingStaleStatusResolver(view.instance, context.asset_graph, view).get_status(context.key)
    return not context.candidate_subset.is_empty and status is StaleStatus.STALE


def _attempted(context: dg.AutomationContext) -> bool:
    instance, key = context.asset_graph_view.instance, context.key
    planned = instance.event_log_storage.get_latest_planned_materialization_info(key)
    mine = instance.get_latest_data_version_record(key)
    if not planned or not mine:
        return False
    inputs = [
        record
        for parent in context.asset_graph.get(key).parent_keys
        if (record := instance.get_latest_data_version_record(parent))
    ]
    if any(record.run_id == planned.run_id for record in inputs) and _gave_up(context, planned.run_id):
        # They were built after the attempt was planned and before it ran, so the attempt used them.
        inputs = [record for record in inputs if record.run_id != planned.run_id]
    return planned.storage_id > max([mine.storage_id, *(record.storage_id for record in inputs)])


def _gave_up(context: dg.AutomationContext, run_id: str) -> bool:
    """Return whether a run was cancelled or the asset's own step failed in it; a run that died early had neither."""
    instance = context.asset_graph_view.instance
    run = instance.get_run_by_id(run_id)
    if run is None or run.status is dg.DagsterRunStatus.CANCELED:
        return run is not None
    step = context.asset_graph.get(context.key).assets_def.op.name
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return any(entry.step_key == step for entry in failures)


_REDEPLOYED = Condition.code_version_changed().since(Condition.newly_requested() | Condition.initial_evaluation())

RETRAIN = (
    (StaleAndNotAttempted() | (Stale() & _REDEPLOYED) | Condition.newly_missing().since_last_handled())
    & ~Condition.any_deps_match(Stale())  # upstream first, else an asset with two changed inputs is trained twice
    & ~Condition.any_deps_missing()
    & ~Condition.any_deps_in_progress()
    & ~Condition.any_deps_match(Condition.will_be_requested())
    & ~Condition.in_progress()
    & Condition.all_deps_blocking_checks_passed()
).with_label("retrain_when_inputs_or_code_changed")
"""Condition of every asset."""

PROMOTE = (
    (StaleAndNotAttempted() | (Condition.missing() & ~Condition.execution_failed()))
    & ~Condition.any_deps_missing()
    & ~Condition.any_deps_in_progress()
    & ~Condition.any_deps_match(Condition.will_be_requested())
    & ~Condition.in_progress()
    & Condition.all_deps_blocking_checks_passed()
    & ~MadeWithOtherSettings()
).with_label("promote_when_all_gates_passed")
"""Condition of the promoted policy, the only asset whose first version may be automatic, because it trains nothing."""


def recheck(bounds: str = "") -> dg.AutomationCondition:
    """Return the condition of a check.

    Without it, an asset whose blocking checks never ran would block its downstream assets forever.

    Args:
        bounds: current bounds of the check; it is repeated when its last result used others.
    """
    unasked = Condition.missing() | SkippedWithItsAsset()
    return (
        (unasked | JudgedByOtherBounds(bounds) if bounds else unasked)
        & ~Condition.any_deps_missing()
        & ~Condition.any_deps_in_progress()
        & ~Condition.any_deps_match(Condition.will_be_requested())
        & ~Condition.in_progress()
    ).with_label("check_what_was_not_checked")
