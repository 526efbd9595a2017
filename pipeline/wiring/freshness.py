"""How old what others rely on may become: sources that nobody looks at, and a promoted policy that nobody replaces."""

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
"""When the sources' checks are asked, in UTC: hours after the nightly look, so that a look that failed is noticed."""


def promoted_freshness(config: Config) -> dg.FreshnessPolicy:
    """Return the policy that warns, then fails, when the promoted policy has not been moved for long."""
    freshness = config.operations.freshness
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=freshness.promoted_fail_days),
        warn_window=timedelta(days=freshness.promoted_warn_days),
    )


def source_checks(project: Project) -> dg.AssetChecksDefinition:
    """Return the checks that warn when a source was not observed for too long: a changed file would go unnoticed.

    Dagster's freshness policies look at materializations alone, and a source is only observed; one would stay UNKNOWN.

    Args:
        project: its graph names the sources, its configuration says how long is too long.
    """
    config = project.config
    hours = config.operations.freshness.source_hours
    specs = [
        dg.AssetCheckSpec(
            OBSERVED_RECENTLY,
            asset=name,
            description=f"The source was observed within the last {hours:g} hours; only that notices a change.",
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
    & ~dg.AutomationCondition.any_deps_missing()  # a source of a fresh home, which nobody has run yet
    & ~dg.AutomationCondition.in_progress()
).with_label("ask_every_morning")


def _result(instance: dg.DagsterInstance, source: dg.AssetKey, hours: float) -> dg.AssetCheckResult:
    name = source.to_user_string()
    records = instance.fetch_observations(source, limit=1).records
    metadata: dict[str, Any] = {"at_most_hours": hours}
    if records:
        age = (time.time() - records[0].timestamp) / 3600
        passed = age <= hours
        metadata |= {"hours": round(age, 2), "last_observed": dg.MetadataValue.timestamp(records[0].timestamp)}
        found = f"{name} was observed {age:.1f} hours ago"
    else:
        passed, found = False, f"{name} was never observed"
    advice = "" if passed else "; see whether the schedule observe_sources_nightly is on and succeeds, or press Observe"
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=source,
        check_name=OBSERVED_RECENTLY,
        severity=dg.AssetCheckSeverity.WARN,
        description=found + advice,
        metadata=metadata,
    )
