"""A reporter that kills a training run at a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from drirl_core.testing import RecordingReporter


class Killed(BaseException):
    """Stand for a kill of the process."""


def assert_resumes(contexts: Any, train: Callable[[Any], Any], settings: Mapping[str, Any]) -> None:
    """Compare a training that is killed and resumed with one that is not: weights and log are equal to the byte."""
    whole = contexts.make("whole", settings)
    train(whole)
    with pytest.raises(Killed):
        train(contexts.make("killed", settings, reporter=KillingReporter(3)))
    resumed = contexts.make("killed", settings)
    train(resumed)
    for name in ("model.safetensors", "training_log.jsonl"):
        assert (whole.out / name).read_bytes() == (resumed.out / name).read_bytes(), name


class KillingReporter(RecordingReporter):
    """End the run when a step's metrics arrive."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def metrics(self, step: int, values: Any) -> None:
        super().metrics(step, values)
        if step == self._step:
            raise Killed
