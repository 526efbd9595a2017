"""What a stage reports while it works, independently of where it is shown.

A stage gets a `Reporter`. On the command line it prints lines, under Dagster it writes to the run's log
(`pipeline.running.worker`), in tests it stays silent. Metadata that is more than a number or a string is wrapped in
`Plot` or `Table`, so that the reporter decides how to show it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Receive log lines, progress and metrics from a running stage."""

    def log(self, message: str) -> None:
        """Receive one line."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Receive the state of a countable task: `done` of `total`."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Receive the metrics of one training step."""
        ...


class LogReporter:
    """Write progress to the standard logger, at most one line per task in `every_s` seconds.

    Args:
        every_s: least seconds between two progress lines of the same task.
    """

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, float] = {}

    def emit(self, line: str) -> None:
        """Write one finished line; subclasses send it elsewhere."""
        logger.info(line)

    def log(self, message: str) -> None:
        """Write `message` unchanged."""
        self.emit(message)

    def progress(self, what: str, done: int, total: int) -> None:
        """Write `what: done/total, seconds left`, estimated from the first call for `what`."""
        now = time.monotonic()
        start, first = self._started.setdefault(what, (now, done))
        finished = done >= total
        if not finished and now - self._last.get(what, float("-inf")) < self._every_s:
            return
        self._last[what] = now
        line = f"{what}: {done}/{total}"
        if finished:
            line += f" done in {now - start:.0f} s"
            self._started.pop(what, None)
            self._last.pop(what, None)
        elif done > first:
            line += f", about {(now - start) / (done - first) * (total - done):.0f} s left"
        self.emit(line)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of one step on one line."""
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        self.emit(f"step {step}: {shown}")


class SilentReporter:
    """Ignore progress; for tests and for callers that only need the result."""

    def log(self, message: str) -> None:
        """Ignore the line."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Ignore the progress."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore the metrics."""


@dataclass(frozen=True)
class Plot:
    """An image inside the artifact, to be shown inline.

    Args:
        path: a PNG file below the artifact's directory.
        caption: one line under the image.
    """

    path: Path
    caption: str


@dataclass(frozen=True)
class Table:
    """A small table to be shown inline.

    Args:
        rows: a few dozen rows at most, with the same keys and scalar values.
    """

    rows: list[dict[str, Any]]


def duration(seconds: float) -> str:
    """Format a number of seconds for reading: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    total = round(max(0.0, seconds))
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, what: str) -> str:
    """Write a number of things: `1 asset`, `2 assets`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def amount(number: float) -> str:
    """Format a large number for reading: `950`, `12k`, `3.1M`."""
    if number < 9_950:
        return f"{number:.0f}" if number < 1_000 else f"{number / 1e3:.1f}k"
    return f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.1f}M"
