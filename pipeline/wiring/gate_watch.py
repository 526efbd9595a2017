"""Notice gates that failed since the last look, whoever asked them: a run, automation, or a person."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from drirl_core.checks.asking import rules_of
from drirl_core.config import Config
from drirl_core.promotion import CANDIDATE
from pipeline.wiring.alerts import Alert, Hook, send_all

REGRESSION = "no_regression"


@dataclass(frozen=True)
class FailedGate:
    """A gate that holds a candidate back.

    Args:
        gate: name of the gate.
        description: what it found.
        run_id: the run that asked it.
    """

    gate: str
    description: str
    run_id: str


def failed_since(instance: dg.DagsterInstance, seen: Mapping[str, int]) -> tuple[Sequence[FailedGate], dict[str, int]]:
    """Look at the newest result of every gate.

    Args:
        instance: where results are recorded.
        seen: record number by gate that was looked at before; one number for all would miss a result that was planned
            before, and written after, another gate's.

    Returns:
        The gates that failed since, and what is seen now.
    """
    keys = [dg.AssetCheckKey(dg.AssetKey(CANDIDATE), rule.name) for rule in rules_of(CANDIDATE)]
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    finished = {key.name: result for key, result in newest.items() if result.evaluation is not None}
    fresh = {name: result for name, result in finished.items() if result.id != seen.get(name)}
    failed = [
        FailedGate(name, result.evaluation.description or "", result.run_id)
        for name, result in fresh.items()
        if not result.evaluation.passed
    ]
    return failed, {**seen, **{name: result.id for name, result in fresh.items()}}


def gate_sensor(config: Config, hooks: Sequence[Hook] = ()) -> dg.SensorDefinition:
    """Return the sensor that raises an alert for each gate that holds a candidate back, a benchmark regression among them.

    Args:
        config: names the hooks of the alerts.
        hooks: further functions that take the alert.
    """

    @dg.sensor(
        name="alert_on_failed_gates",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert when a candidate is worse than the promoted policy or not comparable, or another gate holds it back.",
    )
    def alert_on_failed_gates(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        failed, seen = failed_since(context.instance, json.loads(context.cursor or "{}"))
        send_all([alert_of(gate) for gate in failed], config.operations.alerts, context.log, hooks)
        context.update_cursor(json.dumps(seen))
        return dg.SkipReason(
            f"{len(failed)} gates failed since the last look" if failed else "no gate failed since the last look"
        )

    return alert_on_failed_gates


def alert_of(failed: FailedGate) -> Alert:
    """Say which gate failed and why."""
    facts = {"gate": failed.gate, "run_id": failed.run_id}
    if failed.gate == REGRESSION:
        return Alert(
            "benchmark_regression",
            "the new policy does worse than the promoted one, or cannot be compared with it",
            failed.description,
            facts,
        )
    return Alert("gate_failed", f"gate {failed.gate} holds the new policy back", failed.description, facts)
