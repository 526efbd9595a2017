"""Alerts on failed runs, with the error message of the stage that failed."""

from collections.abc import Sequence

import dagster as dg

from drirl_core.config import Config
from pipeline.running.events import RunEvent, events_of, problem
from pipeline.running.owner import own_tag
from pipeline.running.problems import once
from pipeline.wiring.alerts import Alert, Hook, send

_TELLING = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.ASSET_CHECK_EVALUATION}


def failure_sensor(config: Config, hooks: Sequence[Hook] = ()) -> dg.SensorDefinition:
    """Return the sensor that raises an alert for each failed run of this code location.

    Failed steps of `drirl run` are left out: whoever started it sees on the same screen why it failed. A run whose
    process was killed is reported in any case.

    Args:
        config: lists the hooks.
        hooks: further functions that take the alert.
    """

    @dg.run_failure_sensor(
        name="alert_on_failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert that says which step of a run failed and why.",
    )
    def alert_on_failed_runs(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        alert = failure_alert(context.instance, run, context.failure_event)
        if own_tag(run) is None or not alert.facts["steps"]:
            send(alert, config.operations.alerts, context.log, hooks)

    return alert_on_failed_runs


def failure_alert(instance: dg.DagsterInstance, run: dg.DagsterRun, ended: dg.DagsterEvent) -> Alert:
    """Say which steps of a failed run failed, and why.

    Args:
        instance: where its events are recorded.
        run: the run.
        ended: the event that ended it; it gives the reason when no step failed, for example when the process of the
            run was killed.
    """
    entries = instance.all_logs(run.run_id, of_type=_TELLING)
    found = [event for entry in entries for event in events_of(entry) if event.is_problem]
    steps = list(dict.fromkeys(map(_place, found)))
    short = run.run_id[:8]
    facts = {
        "run_id": run.run_id,
        "job": run.job_name,
        "steps": steps,
        "assets": sorted(key.to_user_string() for key in run.asset_selection or ()),
        "retried": run.tags.get("dagster/will_retry") == "true",
    }
    if found:
        return Alert(
            "run_failed",
            f"run {short} failed at {', '.join(steps)}",
            "\n".join(once(event.message for event in found)),
            facts,
        )
    return Alert("run_failed", f"run {short} failed outside of its steps", _cause(ended), facts)


def _place(event: RunEvent) -> str:
    return f"{event.asset} ({event.data['check']})" if event.kind == "check" else event.data["step"]


def _cause(ended: dg.DagsterEvent) -> str:
    """Return the reason why a run ended in which no step failed."""
    data = ended.event_specific_data
    cause = problem(data) if getattr(data, "error", None) is not None else ""
    return "\n".join(filter(None, (ended.message, cause))) or "no reason was recorded"
