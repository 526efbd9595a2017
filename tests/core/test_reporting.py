"""Reporters: the number and the content of their lines."""

from __future__ import annotations

import logging

import pytest

from drirl_core import reporting
from drirl_core.reporting import LogReporter, SilentReporter
from drirl_core.testing import RecordingReporter


class Lines(LogReporter):
    """Record the lines."""

    def __init__(self, every_s: float = 5.0) -> None:
        super().__init__(every_s)
        self.lines: list[str] = []

    def emit(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in a list of one element; it starts at 0, as on a machine that just booted."""
    now = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_throttled_and_estimates_the_remaining_time(clock: list[float]) -> None:
    """10 of 40 in 6 s from the first call at 0: 30 more take 18 s. Lines at 0, 6 and the end, none at 2 s."""
    reporter = Lines()
    for second, done in [(0.0, 0), (2.0, 3), (6.0, 10), (8.0, 20), (24.0, 40)]:
        clock[0] = second
        reporter.progress("rows", done, 40)
    assert reporter.lines == ["rows: 0/40", "rows: 10/40, about 18 s left", "rows: 40/40 done in 24 s"]


def test_a_resumed_task_is_timed_from_its_first_call(clock: list[float]) -> None:
    """30 of 40 exist; 2 more take 6 s, so the last 8 take 24 s."""
    reporter = Lines()
    reporter.progress("rows", 30, 40)
    clock[0] = 6.0
    reporter.progress("rows", 32, 40)
    assert reporter.lines[-1] == "rows: 32/40, about 24 s left"


def test_tasks_are_throttled_separately_and_start_again_when_done(clock: list[float]) -> None:
    reporter = Lines()
    reporter.progress("a", 1, 9)
    reporter.progress("b", 1, 9)
    reporter.progress("a", 9, 9)
    clock[0] = 100.0
    reporter.progress("a", 9, 9)
    assert reporter.lines == ["a: 1/9", "b: 1/9", "a: 9/9 done in 0 s", "a: 9/9 done in 0 s"]


def test_log_and_metrics_lines() -> None:
    reporter = Lines()
    reporter.log("hello")
    reporter.metrics(3, {"loss": 0.123456, "kl": 2.0})
    assert reporter.lines == ["hello", "step 3: loss 0.1235  kl 2"]


def test_the_plain_reporter_writes_to_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="drirl_core.reporting"):
        LogReporter().log("hello")
    assert caplog.messages == ["hello"]


def test_the_silent_reporter_writes_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reporter = SilentReporter()
    reporter.log("hello")
    reporter.progress("rows", 1, 2)
    reporter.metrics(1, {"loss": 1.0})
    assert (capsys.readouterr().out, caplog.messages) == ("", [])


def test_the_recording_reporter_records_everything() -> None:
    reporter = RecordingReporter()
    reporter.log("hello")
    reporter.progress("rows", 1, 4)
    reporter.progress("rows", 2, 4)
    reporter.metrics(1, {"loss": 1.0})
    assert (reporter.lines, reporter.done, reporter.steps) == (["hello"], {"rows": (2, 4)}, [(1, {"loss": 1.0})])
