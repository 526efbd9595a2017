"""Notice gates that failed since the last look, whoever asked them: a run, automation, or a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from drirl_core.promotion import CANDIDATE
from pipeline.lib.rules import RULES

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
    keys = [dg.AssetCheckKey(dg.AssetKey(CANDIDATE), rule.name) for rule in RULES[CANDIDATE]]
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    finished = {key.name: result for key, result in newest.items() if result.evaluation is not None}
    fresh = {name: result for name, result in finished.items() if result.id != seen.get(name)}
    failed = [
        FailedGate(name, result.evaluation.description or "", result.run_id)
        for name, result in fresh.items()
        if not result.evaluation.passed
    ]
    return failed, {**seen, **{name: result.id for name, result in fresh.items()}}
