"""`drirl run`: run the graph, show its progress, and print the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from drirl_core.graph.estimates import estimates, totals
from drirl_core.graph.plan import plan
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE
from pipeline.cli import promote as promotion
from pipeline.cli import report as results
from pipeline.cli.common import duration, errors, output
from pipeline.cli.plan import data_warnings, left_out_lines, summary_line
from pipeline.cli.progress import RunState, view
from pipeline.executors.choice import require_local
from pipeline.running.problems import once


def run_and_show(file: Path, project: Project, again: str, only: Sequence[str] | None = None) -> None:
    """Run what is pending and print the results.

    Args:
        file: the configuration as it was given, for the commands that are printed.
        project: the configuration with the changes of the user, its graph and its store.
        again: the command that the user gave; printed as the way to continue.
        only: names of assets, or `stale`; None for all.

    Raises:
        DrirlError: the run could not start.
        typer.Exit: code 1 when an asset failed, 130 when the user stopped the run.
    """
    require_local(project.config)
    console, todo = output(), plan(project, only)  # planned once: everything below uses this plan
    pending, costs = [asset.name for asset in todo.pending], estimates(todo, project)
    if pending:
        console.print(Text(f"{project.config.name}: {summary_line(todo, totals(todo, costs))}"), soft_wrap=True)
    for line in left_out_lines(todo):
        console.print(Text(line), soft_wrap=True)
    for line in data_warnings(project, todo) if pending else ():
        console.print(Text(f"Warning: {line}", style="yellow"), soft_wrap=True)
    with console.status("starting Dagster") if console.is_terminal else _NoSpinner():
        from pipeline.running.run import run_planned  # loads Dagster, which takes seconds

    state = RunState(pending, {name: cost.seconds for name, cost in costs.items() if cost.seconds is not None})
    with view(state, console) as shown:
        outcome = run_planned(project, todo, shown.take)
    if outcome.cancelled:
        _say_stopped(outcome, again)
        raise typer.Exit(130)
    if not outcome.success:
        _say_failed(outcome, again)
        raise typer.Exit(1)
    _say_done(file, project, outcome, state, "everything" if only is None else "what --only selects")


class _NoSpinner:
    """Stand in for the spinner where there is no terminal."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def _say_done(file: Path, project: Project, outcome: Any, state: RunState, asked: str) -> None:
    console = output()
    console.print()
    if not outcome.built:
        console.print(
            f"Nothing to do: {asked} is up to date, nothing was trained.", style="bold green", highlight=False
        )
    else:
        console.print(
            f"Done: {len(outcome.built)} assets built, {len(outcome.reused)} reused, in {duration(outcome.seconds)}.",
            style="bold green",
        )
    # The gates are reported below.
    for warning in once(warning for warning in state.warnings if not warning.startswith(f"{CANDIDATE} ")):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    console.print()
    if "report" in outcome.versions:
        results.show(project.store.open("report", outcome.versions["report"]), console)
    if CANDIDATE in outcome.versions:
        promotion.show_outlook(file, project, outcome.versions[CANDIDATE], console)
    console.print(
        "\nWhat next:\n"
        "  drirl chat          talk to the base and the aligned model side by side\n"
        "  drirl report --open see the curves, the samples and the settings in a browser\n"
        "  make dev            see this run as a graph in Dagster, and keep it up to date\n"
        "  docs/how-to/own-model-and-data.md  align your own model with your own data",
        highlight=False,
    )


def _say_stopped(outcome: Any, again: str) -> None:
    console = errors()
    console.print("\n[bold yellow]Stopped.[/]", highlight=False)
    console.print(
        f"{len(outcome.built) + len(outcome.reused)} finished assets are kept, and so are all finished "
        "completions and embeddings.",
        highlight=False,
    )
    console.print(
        "Training (sft, policy) continues from its last checkpoint. Other unfinished assets start again.",
        highlight=False,
    )
    console.print(Text(f"Continue with: {again}"), soft_wrap=True)


def _say_failed(outcome: Any, again: str) -> None:
    console = errors()
    console.print()
    for failure in outcome.failures or ("the run failed without a message; open it in Dagster with `make dev`",):
        console.print(Text.assemble(("Error: ", "bold red"), failure), soft_wrap=True)
    kept = len(outcome.built) + len(outcome.reused)
    console.print(f"\n{kept} finished assets are kept. After fixing the error, continue with:", highlight=False)
    console.print(Text(f"  {again}"), soft_wrap=True)
