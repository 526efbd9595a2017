"""Warn about sources that were not observed for too long, and about a promoted policy that is too old."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from drirl_core.config import Config
from drirl_core.project import Project
from pipeline.executors.gpu_spec import GpuSpec, op_tags

OBSERVED_RECENTLY = "observed_recently"
ASKED_AT = "0 6 * * *"
"""When the checks of the sources run, in UTC: hours after the nightly observation, so that a failed one is noticed."""


def promoted_freshness(config: Config) -> dg.FreshnessPolicy:
    """Return the policy that warns, then fails, when the promoted policy has not changed for too long."""
    freshness = config.operations.freshness
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=freshness.promoted_fail_days),
        warn_window=timedelta(days=freshness.promoted_warn_days),
    )


def source_checks(project: Project) -> dg.AssetChecksDefinition:
    """Return the checks that warn when a source was not observed for too long: changed files would go unnoticed.

    Dagster's freshness policies use materializations only. A source is observed, never materialized, so its policy
    would stay UNKNOWN.

    Args:
        project: its graph lists the sources, its configuration gives the maximum age.
    """
    config = project.config
    hours = config.operations.freshness.source_hours
    specs = [
        dg.AssetCheckSpec(
            OBSERVED_RECENTLY,
            asset=name,
            description=f"The source was observed within the last {hours:g} hours; a changed file is noticed "
            "only then.",
            automation_condition=_EVERY_MORNING,
        )
        for name in project.graph.sources
    ]
    tags = op_tags(GpuSpec(), config.execution.executor)

    @dg.multi_asset_check(name="check_sources", specs=specs, can_subset=True, op_tags=tags)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for key in sorted(context.selected_asset_check_keys):
            yield _result(context.instance, key.asset_key, hours)

    return check


_EVERY_MORNING = (
    dg.AutomationCondition.cron_tick_passed(ASKED_AT)
    & ~dg.AutomationCondition.any_deps_missing()  # the sources of a new home, in which nothing has run yet
    & ~dg.AutomationCondition.in_progress()
).with_label("ask_every_morning")


def _result(instance: dg.DagsterInstance, source: dg.AssetKey, hours: float) -> dg.AssetCheckResult:
    name = source.to_user_string()
    records = instance.fetch_observations(source, limit=1).records
    metadata: dict[str, Any] = {"at_most_hours": f"{hours:g}"}  # a bound: as a number it would be plotted
    if records:
        age = (time.time() - records[0].timestamp) / 3600
        passed = age <= hours
        metadata |= {"hours": round(age, 2), "last_observed": dg.MetadataValue.timestamp(records[0].timestamp)}
        found = f"{name} was observed {age:.1f} hours ago"
    else:
        passed, found = False, f"{name} was never observed"
    advice = "" if passed else "; check that the schedule observe_sources_nightly is on and succeeds, or press Observe"
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=source,
        check_name=OBSERVED_RECENTLY,
        severity=dg.AssetCheckSeverity.WARN,
        description=found + advice,
        metadata=metadata,
    )
