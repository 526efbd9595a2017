from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from drirl_core.graph.estimates import Totals
from drirl_core.graph.plan import Plan, PlannedAsset
from pipeline.cli.common import duration
from pipeline.cli.plan import summary_line
from pipeline.cli.progress import LiveView, PlainView, RunState, view


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def event(kind: str, message: str = "", asset: str | None = None, **data: Any) -> Any:
    return SimpleNamespace(kind=kind, message=message, asset=asset, data=data)


def finished(asset: str, seconds: float | None = 1.0, reused: bool = False) -> Any:
    return event("materialized", asset=asset, seconds=seconds, reused=reused)


def test_k_of_n_counts_planned_and_reused_assets() -> None:
    """Two planned, one of them made, and one more that was only reused: 2 of 3."""
    state = RunState(["a", "b"], {})
    assert state.take(finished("a", 3.0)) == "[1/2] a: built in 3 s"
    assert state.take(finished("c", None, reused=True)) == "[2/3] c: unchanged, reused"
    assert state.headline().startswith("2 of 3 assets")


def test_time_left_adds_the_estimate_of_the_current_asset_and_earlier_times_of_the_rest() -> None:
    """b reports 30 s left, c took 100 s in an earlier run: 130 s."""
    state = RunState(["a", "b", "c"], {"b": 5.0, "c": 100.0}, Clock())
    state.take(finished("a"))
    state.take(event("step_start", step="b"))
    state.take(event("log", "GRPO: 4/16, about 30 s left"))
    assert state.time_left() == (130.0, True)
    assert "about 2 min 10 s left" in state.headline()


def test_time_left_of_the_current_asset_shrinks_with_the_clock() -> None:
    """b took 50 s in an earlier run and has run for 20 s: 30 s left."""
    clock = Clock()
    state = RunState(["b"], {"b": 50.0}, clock)
    state.take(event("step_start", step="b"))
    clock.now = 20.0
    assert state.time_left() == (30.0, True)


def test_unknown_times_make_a_lower_bound() -> None:
    state = RunState(["a", "b"], {"b": 40.0}, Clock())
    state.take(event("step_start", step="a"))
    assert state.time_left() == (40.0, False)
    assert "at least 40 s left" in state.headline()
    assert RunState(["a"], {}, Clock()).time_left() is None


def test_prefix_of_a_line_names_the_current_asset_of_a_shared_step() -> None:
    state = RunState(["reward_model_insult", "reward_model_fraud"], {})
    state.take(event("step_start", step="reward_model_by_category"))
    assert state.current is None
    state.take(event("log", "[reward_model_fraud] reward learning: 10/60, about 7 s left"))
    assert state.current == "reward_model_fraud"
    assert state.detail == "reward learning: 10/60, about 7 s left"
    state.take(finished("reward_model_fraud"))
    assert (state.current, state.detail) == (None, "")


def test_reuse_is_reported_once() -> None:
    assert RunState(["a"], {}).take(event("log", "[a] a: unchanged, version 0123456789abcdef is reused")) is None


def test_failed_checks_are_reported_as_failure_or_warning() -> None:
    state = RunState([], {})
    assert state.take(event("check", "x kept", passed=True, blocking=True)) is None
    assert (
        state.take(event("check", "over_refusal: 20 %", passed=False, blocking=False)) == "warning over_refusal: 20 %"
    )
    assert state.take(event("check", "kl: 9", passed=False, blocking=True)) == "FAILED kl: 9"
    assert state.take(event("failure", "no memory")) == "FAILED no memory"
    assert (state.warnings, state.failures) == (["over_refusal: 20 %"], ["kl: 9", "no memory"])


def test_plain_view_prints_one_line_per_event_and_escapes_markup() -> None:
    console = Console(file=io.StringIO(), width=200)
    shown = view(RunState(["a"], {}, Clock()), console)
    assert isinstance(shown, PlainView)
    with shown:
        shown.take(event("step_start", step="a"))
        shown.take(event("log", "[bold]not markup[/bold] 1/2"))
        shown.take(finished("a", 2.0))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["  0:00  [bold]not markup[/bold] 1/2", "  0:00  [1/1] a: built in 2 s (1 of 1 assets, 0 s so far)"]


def test_live_view_shows_the_current_asset_and_keeps_finished_ones() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    shown = view(RunState(["a", "b"], {}, Clock()), console)
    assert isinstance(shown, LiveView)
    with shown:
        shown.take(event("step_start", step="a"))
        shown.take(event("log", "SFT: 3/10, about 5 s left"))
        shown.take(finished("b", 2.0))
        shown.take(event("log", "[a] SFT: 4/10, about 4 s left"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "b: built in 2 s" in text
    assert "a: SFT: 4/10, about 4 s left" in text
    assert "1 of 2 assets" in text


def test_live_view_keeps_warnings_on_the_screen() -> None:
    """What the panel shows is erased at the end; a warning is printed above it."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    shown = LiveView(RunState(["prompt_pool"], {}, Clock()), console)
    shown.take(event("log", "[prompt_pool] warning: 2 of 3 rows of mine are in quarantine"))
    shown.take(event("log", "[prompt_pool] no category router"))
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "[prompt_pool] warning: 2 of 3 rows of mine are in quarantine\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (7800, "2 h 10 min"), (-1, "0 s")],
)
def test_durations_are_written_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_summary_line_counts_states_and_gives_the_cost() -> None:
    assets = {
        "a": PlannedAsset("a", "up_to_date", "", "v"),
        "b": PlannedAsset("b", "will_run", ""),
        "c": PlannedAsset("c", "may_run", ""),
    }
    cost = Totals(60.0, 2000.0, 90.0, 2000.0, (), (), ())
    line = summary_line(Plan(assets), cost)
    assert line.startswith("1 of 3 assets are up to date; 1 will run, 1 may run")
    assert line.endswith(
        "Cost: about 1 min 00 s and 2.0k tokens, or 1 min 30 s and 2.0k tokens if all that may run does."
    )
    assert summary_line(Plan({"a": assets["a"]}), cost) == "Nothing to do: all 1 assets are up to date."


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.floats(0, 1e6))
def test_state_never_counts_beyond_its_total(steps: list[tuple[str, bool]], later: float) -> None:
    clock = Clock()
    state = RunState(["a", "b"], {"a": 3.0}, clock)
    for asset, ends in steps:
        state.take(finished(asset) if ends else event("step_start", step=asset))
        clock.now += later
        left = state.time_left()
        assert len(state.done) <= state.total
        assert left is None or left[0] >= 0
