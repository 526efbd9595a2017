"""Live progress of a run: the current asset, how many of how many are done, time spent, time left."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.text import Text

from pipeline.cli.common import duration

_PREFIX = re.compile(r"^\[([a-z0-9_]+)\] ")
_PROGRESS = re.compile(r": (\d+)/(\d+)(?:, about (\d+) s left)?")
_REUSED = re.compile(r": unchanged, version [0-9a-f]+ is reused$")
_WARNING = re.compile(r"(?:\[[a-z0-9_]+\] )?warning: ")
_FAILED = re.compile(r"failed(?:: | with the same error as )")
_TAIL = 6
_SHOWN_CHARS = 100


class Event(Protocol):
    """The fields of an event of `pipeline.running.events` that this module reads."""

    kind: str
    message: str
    asset: str | None
    data: Mapping[str, object]


class RunState:
    """What is known about a run while it is in progress.

    Args:
        pending: assets that will or may run, in order.
        earlier: seconds per asset in earlier runs.
        clock: returns seconds since any fixed point.
    """

    def __init__(
        self, pending: Sequence[str], earlier: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pending, self._earlier, self._clock = list(pending), dict(earlier), clock
        self._started = self._asset_started = clock()
        self._left_s: float | None = None
        self.done: dict[str, float | None] = {}
        self.current: str | None = None
        self.detail = ""
        self.warnings: list[str] = []
        self.failures: list[str] = []

    def take(self, event: Event) -> str | None:
        """Note an event.

        Returns:
            A line to print, or None when the event only updates the display.
        """
        if event.kind == "materialized" and event.asset:
            return self._finish(event)
        if event.kind == "step_start":
            step = str(event.data.get("step", ""))
            self._begin(step if step in self.pending else None)
            return None
        if event.kind == "log":
            return self._log(event.message)
        if event.kind == "check":
            return self._check(event)
        self.failures.append(event.message)
        return f"FAILED {event.message}"

    @property
    def total(self) -> int:
        """Number of assets of the run: those planned, and those it reused only to record them."""
        return len(set(self.pending) | set(self.done))

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def time_left(self) -> tuple[float, bool] | None:
        """Estimate the seconds left.

        The current asset reports its own time left. The assets after it are expected to take as long as in an earlier
        run.

        Returns:
            Seconds, and whether the time of every asset is known (else the seconds are a lower bound); None when
            nothing is known or nothing is left.
        """
        waiting = [name for name in self.pending if name not in self.done and name != self.current]
        known = [self._earlier[name] for name in waiting if name in self._earlier]
        now: float | None = None
        if self.current is not None:
            spent = self._clock() - self._asset_started
            before = self._earlier.get(self.current)
            remembered = (
                before - spent if before is not None and before > spent else None
            )  # slower than last time: no estimate
            now = self._left_s if self._left_s is not None else remembered
        complete = len(known) == len(waiting) and (self.current is None or now is not None)
        total = sum(known) + (now or 0.0)
        return (total, complete) if total else None

    def headline(self) -> str:
        """Return one line that says how much of the run is done."""
        left = self.time_left()
        line = f"{len(self.done)} of {self.total} assets, {duration(self.elapsed)} so far"
        if left is not None:
            line += f", {'about' if left[1] else 'at least'} {duration(left[0])} left"
        return line

    def _begin(self, asset: str | None) -> None:
        if asset != self.current:
            self.current, self._asset_started, self.detail, self._left_s = asset, self._clock(), "", None

    def _finish(self, event: Event) -> str:
        seconds = event.data.get("seconds")
        self.done[str(event.asset)] = float(seconds) if isinstance(seconds, int | float) else None
        self._begin(None)
        took = f"built in {duration(float(seconds))}" if isinstance(seconds, int | float) else "built"
        return (
            f"[{len(self.done)}/{self.total}] {event.asset}: "
            f"{'unchanged, reused' if event.data.get('reused') else took}"
        )

    def _log(self, message: str) -> str | None:
        prefix = _PREFIX.match(message)
        if prefix and prefix[1] in self.pending and prefix[1] not in self.done:
            self._begin(prefix[1])
        text = message[prefix.end() :] if prefix else message
        if _REUSED.search(text) or _FAILED.match(text):  # reported by the event that follows
            return None
        progress = _PROGRESS.search(text)
        if progress:
            finished = progress[1] == progress[2]
            self._left_s = None if finished or progress[3] is None else float(progress[3])
            self.detail = text
        return message

    def _check(self, event: Event) -> str | None:
        if event.data.get("passed"):
            return None
        (self.failures if event.data.get("blocking") else self.warnings).append(event.message)
        return f"{'FAILED' if event.data.get('blocking') else 'warning'} {event.message}"


class PlainView:
    """Print one line per event: for logs and pipes."""

    def __init__(self, state: RunState, console: Console) -> None:
        self._state, self._console = state, console

    def __enter__(self) -> PlainView:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def take(self, event: Event) -> None:
        """Note an event and print its line; after a finished asset the line also says how much of the run is done."""
        line = self._state.take(event)
        if line is None:
            return
        if event.kind == "materialized":
            line += f" ({self._state.headline()})"
        if event.kind == "failure":
            line = _beginning(line)
        self._console.print(f"{_stamp(self._state.elapsed)}  {escape(line)}", highlight=False, soft_wrap=True)


class LiveView:
    """Keep one panel up to date, with the last log lines below it: for terminals."""

    def __init__(self, state: RunState, console: Console) -> None:
        self._state = state
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._console = console
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        """Show the panel."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the panel; finished assets stay on the screen."""
        self._live.stop()

    def take(self, event: Event) -> None:
        """Note an event; finished assets, problems and warnings stay on the screen, progress lines do not."""
        line = self._state.take(event)
        if line is None:
            return
        if event.kind == "log" and _WARNING.match(line):
            self._live.console.print(Text(line, style="yellow"), soft_wrap=True)
        elif event.kind in ("materialized", "failure", "check"):
            colour = {"materialized": "green", "failure": "red", "check": "yellow"}[event.kind]
            shown = _beginning(line) if event.kind == "failure" else line
            self._live.console.print(Text(shown, style=colour), soft_wrap=True)
        else:
            self._tail.append(line)

    def _render(self) -> Panel:
        state = self._state
        what = state.current or (
            "done" if len(state.done) >= state.total else "starting the next step" if state.done else "starting"
        )
        lines = [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in self._tail]
        body = Group(
            Text(f"{what}{': ' + state.detail if state.detail else ''}", overflow="ellipsis", no_wrap=True),
            ProgressBar(total=max(1, state.total), completed=len(state.done)),
            *lines,
        )
        return Panel(body, title=state.headline(), title_align="left", border_style="cyan")


def view(state: RunState, console: Console) -> PlainView | LiveView:
    """Choose the live display for a terminal, else the plain one."""
    return (
        LiveView(state, console) if console.is_terminal and not console.is_dumb_terminal else PlainView(state, console)
    )


def _beginning(line: str) -> str:
    """Return the beginning of a failure: all of it is printed once, when the run has ended."""
    first = line.splitlines()[0]
    return first if first == line and len(line) <= _SHOWN_CHARS else f"{first[:_SHOWN_CHARS].rstrip()} ..."


def _stamp(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:3d}:{rest:02d}"
