"""Seconds of the phases of a training step, read by hooks around a trainer's own methods, beside their floors.

Nothing of the step is changed; on a GPU each phase waits until the device has finished.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.floor import Floor, Rates, median_rates, synchronize

FORWARD, BACKWARD, REST, STEP = "update_forward", "update_backward", "rest", "step"


class PhaseClock(TrainerCallback):
    """Keep the seconds of each phase of each step, and what else is noted of the step.

    Args:
        device: type of the device.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._noted: dict[str, list[Any]] = {}
        self._began = self._optimising = 0.0
        self.steps: list[tuple[dict[str, float], dict[str, list[Any]]]] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a phase; phases do not lie inside each other."""
        started = self._now()
        yield
        self._add(name, self._now() - started)

    def note(self, name: str, value: Any) -> None:
        """Keep something of this step, to be counted when the training is over."""
        self._noted.setdefault(name, []).append(value)

    def timed(self, owner: Any, method: str, phase: str, note: Callable[..., None] | None = None) -> None:
        """Time a method of one object from now on.

        Args:
            owner: the object.
            method: its name.
            phase: that the seconds are added to.
            note: called after it, outside the phase, with its result and its arguments.
        """
        original = getattr(owner, method)

        @functools.wraps(original)
        def inside(*arguments: Any, **named: Any) -> Any:
            with self.phase(phase):
                result = original(*arguments, **named)
            if note:
                note(result, *arguments, **named)
            return result

        setattr(owner, method, inside)

    def time_update(self, trainer: Any, note: Callable[..., None] | None = None) -> None:
        """Time the forward and the backward pass of a trainer; the optimiser's step is added to the backward pass."""
        self.timed(trainer, "compute_loss", FORWARD, note)
        self.timed(trainer.accelerator, "backward", BACKWARD)

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        """Begin the first step."""
        self._began = self._now()

    def on_pre_optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Begin the optimiser's step."""
        self._optimising = self._now()

    def on_optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """End the optimiser's step."""
        self._add(BACKWARD, self._now() - self._optimising)

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """End a step, and begin the next one."""
        now = self._now()
        took = now - self._began
        self.steps.append(({**self._seconds, REST: took - sum(self._seconds.values()), STEP: took}, self._noted))
        self._seconds, self._noted, self._began = {}, {}, now

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def with_step(floors: Mapping[str, Floor]) -> dict[str, Floor]:
    """Return the floors of the phases of a step, and their sum."""
    return {**floors, STEP: sum(floors.values(), Floor())}


@dataclass(frozen=True)
class Measured:
    """The steps of one training, the first among them, which is left out of all figures.

    Args:
        dtype: type of the weights.
        steps: seconds by phase, per step.
        floors: of the same steps.
        rates: of the machine, read just before.
        more: rates of other models.
    """

    dtype: str
    steps: Sequence[Mapping[str, float]]
    floors: Sequence[Mapping[str, Floor]]
    rates: Rates
    more: Mapping[str, Any] = field(default_factory=dict)


def record(found: Sequence[Measured]) -> dict[str, Any]:
    """Return what some trainings of the same kind say together: rates, and the phases beside their floors."""
    return {
        "dtype": found[0].dtype,
        "threads": torch.get_num_threads(),
        **median_rates([one.rates for one in found]).record(),
        **found[-1].more,
        "phases": over_floor(
            [step for one in found for step in one.steps[1:]], [floor for one in found for floor in one.floors[1:]]
        ),
    }


def over_floor(
    measured: Sequence[Mapping[str, float]], floors: Sequence[Mapping[str, Floor]]
) -> dict[str, dict[str, float]]:
    """Return medians over steps by phase: seconds, floor, their ratio, and what the floor was counted from.

    Args:
        measured: seconds by phase, per step.
        floors: of the same steps; a phase without a floor has no ratio.
    """
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for step in measured for name in step):
        both = [(step.get(name, 0.0), floor.get(name)) for step, floor in zip(measured, floors, strict=True)]
        found[name] = {"measured_s": round(statistics.median(took for took, _ in both), 3)}
        counted = [floor for _, floor in both if floor and floor.seconds]
        if counted:
            ratios = [took / floor.seconds for took, floor in both if floor and floor.seconds]
            found[name] |= {
                "floor_s": round(statistics.median(floor.seconds for floor in counted), 3),
                "over_floor": round(statistics.median(ratios), 2),
                "billion_operations": round(statistics.median(floor.operations for floor in counted) / 1e9, 1),
                "billion_bytes": round(statistics.median(floor.bytes for floor in counted) / 1e9, 2),
            }
    return found


_COLUMNS = {"measured_s": 3, "floor_s": 3, "over_floor": 2, "billion_operations": 1, "billion_bytes": 2}
"""Columns of the table of phases, and places after the point."""


def show(phases: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of phases."""
    print(" ".join([f"{'phase':<18}", *(f"{column:>18}" for column in _COLUMNS)]))
    for name, one in phases.items():
        shown = (f"{one[column]:.{places}f}" if column in one else "" for column, places in _COLUMNS.items())
        print(" ".join([f"{name:<18}", *(f"{value:>18}" for value in shown)]).rstrip())
