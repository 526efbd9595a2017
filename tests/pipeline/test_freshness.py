"""Sources that nobody looks at are noticed, and a promoted policy has an age at which the graph warns."""

from datetime import datetime, timedelta

import dagster as dg
import pytest
import stub_stages

from drirl_core.errors import ConfigError
from pipeline.instance.settings import load
from pipeline.wiring.factories import OWNERS, all_definitions
from pipeline.wiring.freshness import OBSERVED_RECENTLY, source_checks
from pipeline.wiring.promoting import promoted_policy

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def settings(tmp_path):
    """Read the stub configuration with some settings of the freshness."""
    path = stub_stages.write_settings(tmp_path)
    return lambda **freshness: load(path, {f"operations.freshness.{key}": value for key, value in freshness.items()})


def _observe(instance: dg.DagsterInstance, name: str) -> None:
    instance.report_runless_asset_event(dg.AssetObservation(name, tags={"dagster/data_version": "1"}))


def _definitions(config) -> dg.Definitions:
    return dg.Definitions.merge(all_definitions(config), dg.Definitions(asset_checks=[source_checks(config)]))


def _verdicts(config, instance) -> dict[str, dg.AssetCheckEvaluation]:
    checks = source_checks(config)
    job = dg.define_asset_job("ask", dg.AssetSelection.checks(checks))
    defs = dg.Definitions.merge(_definitions(config), dg.Definitions(jobs=[job]))
    done = defs.resolve_job_def("ask").execute_in_process(instance=instance)
    return {found.asset_key.to_user_string(): found for found in done.get_asset_check_evaluations()}


def test_a_source_warns_when_it_was_not_looked_at_for_too_long_or_never(settings, instance):
    _observe(instance, "source_unsafe")

    looked_at, *others = (_verdicts(config, instance) for config in (settings(), settings(source_hours=1e-9)))
    assert looked_at.keys() == settings().graph.sources.keys()
    assert {name for name, verdict in looked_at.items() if verdict.passed} == {"source_unsafe"}
    assert not others[0]["source_unsafe"].passed
    assert "observe_sources_nightly" in others[0]["source_unsafe"].description
    assert looked_at["source_helpful"].description.startswith("source_helpful was never observed")
    assert {verdict.severity for verdict in looked_at.values()} == {dg.AssetCheckSeverity.WARN}
    assert not any(verdict.blocking for verdict in looked_at.values())


def test_the_sources_are_asked_about_every_morning_once_they_were_looked_at(settings, instance):
    defs, cursor = _definitions(settings()), None

    def tick(moment: str) -> set[str]:
        nonlocal cursor
        found = dg.evaluate_automation_conditions(
            defs, instance, cursor=cursor, evaluation_time=datetime.fromisoformat(f"2026-03-{moment}:00+00:00")
        )
        cursor = found.cursor
        asked = {result.key for result in found.results if not result.true_subset.is_empty}
        return {key.asset_key.to_user_string() for key in asked if getattr(key, "name", "") == OBSERVED_RECENTLY}

    assert tick("01T05:59") == set()
    assert tick("01T06:01") == set()  # a fresh home: nobody ran anything
    _observe(instance, "source_unsafe")
    assert tick("02T05:59") == set()
    assert tick("02T06:01") == {"source_unsafe"}
    assert tick("02T06:02") == set()


def test_the_promoted_policy_has_the_windows_of_the_settings(settings):
    def policy(config) -> dg.FreshnessPolicy:
        (spec,) = promoted_policy(config, OWNERS).specs
        return spec.freshness_policy

    assert policy(settings()) == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=90), warn_window=timedelta(days=60)
    )
    assert policy(settings(promoted_warn_days=1, promoted_fail_days=2)) == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=2), warn_window=timedelta(days=1)
    )


@pytest.mark.parametrize(
    "wrong",
    [{"source_hours": 0}, {"promoted_warn_days": 90}, {"promoted_warn_days": 0}, {"promoted_fail_days": 60}],
)
def test_windows_that_cannot_be_kept_are_refused(settings, wrong):
    with pytest.raises(ConfigError, match=r"operations\.freshness"):
        settings(**wrong)
