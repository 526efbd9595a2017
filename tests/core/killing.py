"""A reporter that kills a training run at a step."""

from __future__ import annotations

from typing import Any

from drirl_core.testing import RecordingReporter


class Killed(BaseException):
    """Stand for a kill of the process."""


class KillingReporter(RecordingReporter):
    """End the run when a step's metrics arrive."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def metrics(self, step: int, values: Any) -> None:
        super().metrics(step, values)
        if step == self._step:
            raise Killed
