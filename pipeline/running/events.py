"""Events of a run: five simple kinds in place of the many event types of Dagster."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg

_INTERNAL = ("[pipes]", "Dependencies for step")
"""Beginnings of log lines about Dagster's internals, which are not passed on."""

Kind = Literal["step_start", "materialized", "log", "check", "failure"]


@dataclass(frozen=True)
class RunEvent:
    """One thing that happened.

    Args:
        kind: `step_start` (data: step), `materialized` (data: reused, seconds, version, metadata), `log` (data: level),
            `check` (data: check, passed, blocking) or `failure` (data: step, details: more text by title, such as a
            traceback).
        message: one line to show; several lines for a failure.
        asset: name of the asset the event is about, if any.
        data: details, which depend on the kind.
    """

    kind: Kind
    message: str
    asset: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_problem(self) -> bool:
        """Whether it fails the run: a step that failed, or a blocking check that did not pass."""
        return self.kind == "failure" or (self.kind == "check" and self.data["blocking"] and not self.data["passed"])


def events_of(entry: dg.EventLogEntry) -> Iterator[RunEvent]:
    """Translate one entry of Dagster's event log; entries that users do not need give no event."""
    event = entry.dagster_event
    if event is None:
        if entry.level >= logging.INFO and not entry.user_message.startswith(_INTERNAL):
            yield RunEvent(
                "log", entry.user_message, data={"level": logging.getLevelName(entry.level), "step": entry.step_key}
            )
        return
    step = event.step_key or ""
    if event.event_type_value == "STEP_START":
        yield RunEvent("step_start", f"{step} started", data={"step": step})
    elif event.event_type_value == "ASSET_MATERIALIZATION":
        yield _materialized(event.materialization)
    elif event.event_type_value == "ASSET_CHECK_EVALUATION":
        yield _checked(event.asset_check_evaluation_data)
    elif event.event_type_value in ("STEP_FAILURE", "STEP_UP_FOR_RETRY"):
        retried = event.event_type_value == "STEP_UP_FOR_RETRY"
        data = event.step_retry_data if retried else event.step_failure_data
        if getattr(getattr(data, "error_source", None), "value", "") == "INTERRUPT":
            yield RunEvent("log", f"{step} stopped", data={"step": step, "level": "WARNING"})
        elif not step.startswith("check_"):  # a failed check was reported already
            facts = {"step": step, "retried": retried, "level": "WARNING", "details": _details(data)}
            yield RunEvent("log" if retried else "failure", problem(data), data=facts)
    elif "blocked by limit for pool" in (event.message or ""):
        yield RunEvent("log", event.message or "", data={"level": "INFO"})


def _materialized(materialization: dg.AssetMaterialization) -> RunEvent:
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    name, reused = materialization.asset_key.to_user_string(), bool(metadata.get("reused"))
    facts = {
        "reused": reused,
        "seconds": metadata.get("seconds"),
        "version": metadata.get("version"),
        "metadata": metadata,
    }
    return RunEvent("materialized", f"{name} {'reused' if reused else 'built'}", name, facts)


def _checked(check: dg.AssetCheckEvaluation) -> RunEvent:
    name = check.asset_key.to_user_string()
    facts = {"check": check.check_name, "passed": check.passed, "blocking": bool(check.blocking)}
    return RunEvent("check", f"{name} {check.check_name}: {check.description or ''}", name, facts)


def problem(data: Any) -> str:
    """Return the error of a step or a run without Dagster's frames; our own description when there is one."""
    described = getattr(getattr(data, "user_failure_data", None), "description", None)
    if described:
        return described
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return (
        error.message.strip().rpartition("events.Failure: ")[2]
        if error is not None
        else "the step failed without a message"
    )


def _details(data: Any) -> dict[str, str]:
    """Return further texts about a failure, such as a traceback, by title."""
    failure = getattr(data, "user_failure_data", None)
    return {title: str(value.value) for title, value in failure.metadata.items()} if failure else {}
