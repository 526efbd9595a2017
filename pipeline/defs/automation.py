"""Automation: stale assets are recomputed, sources are observed every night, a weekly run handles what was missed."""

import warnings

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.panel import PANEL

REFRESH_JOB, OBSERVE_JOB = "refresh_everything", "observe_sources"
_LIMIT = {"dagster/max_runtime": str(24 * 3600)}
"""Seconds after which the run monitor ends a run."""


@dg.schedule(
    cron_schedule="0 4 * * 1",
    job_name=REFRESH_JOB,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Recomputes what is still stale, for example because automation was off or a step failed.",
)
def refresh_stale_assets_weekly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request a run of the stale assets only; assets that were never built are left to people."""
    keys = [dg.AssetKey(name) for name in current().graph.nodes]
    made = [key for key in keys if context.instance.get_latest_materialization_event(key)]
    if not made:
        return dg.SkipReason(
            "nothing was built here yet; start the first run with `make demo`, or select all assets and press "
            "Materialize"
        )
    # Dagster counts assets that were never built as stale.
    return dg.RunRequest(stale_assets_only=True, asset_selection=made)


observe_sources_nightly = dg.ScheduleDefinition(
    name="observe_sources_nightly",
    job_name=OBSERVE_JOB,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Hashes the input files every night and records the retraining plan.",
)


@dg.definitions
def defs() -> dg.Definitions:
    """Make the jobs, the schedules and the sensor."""
    graph = current().graph
    refresh = dg.define_asset_job(
        REFRESH_JOB,
        selection=dg.AssetSelection.assets(*graph.nodes),
        description="Build every asset; what is unchanged is reused instead of trained again.",
        tags=_LIMIT,
    )
    observe = dg.define_asset_job(
        OBSERVE_JOB,
        selection=dg.AssetSelection.assets(*graph.sources, PANEL),
        description=(
            "Hash the input files, so that the graph shows which assets are out of date, and record the "
            "retraining plan."
        ),
    )
    return dg.Definitions(
        jobs=[refresh, observe], schedules=[refresh_stale_assets_weekly, observe_sources_nightly], sensors=[_sensor()]
    )


def _sensor() -> dg.AutomationConditionSensorDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # use_user_code_server, which custom conditions need
        return dg.AutomationConditionSensorDefinition(
            "retrain_when_inputs_or_code_changed",
            target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=30,
            run_tags=_LIMIT,
            description=(
                "Recomputes an asset when an input, its settings or its code changed, once everything upstream "
                "has settled."
            ),
        )
