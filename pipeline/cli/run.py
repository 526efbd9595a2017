"""`drirl run`: run the graph, show its progress, and print the results."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from drirl_core.graph.estimates import Estimate, estimates, totals
from drirl_core.graph.plan import Plan, plan
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE
from drirl_core.runs.record import Result, Results, check_name, result_of_run
from pipeline.cli import promote as promotion
from pipeline.cli import report as results
from pipeline.cli.common import Given, duration, errors, output
from pipeline.cli.plan import data_warnings, remarks, summary_line
from pipeline.cli.progress import RunState, view
from pipeline.executors.choice import require_local
from pipeline.running.problems import once


def run_and_show(given: Given, name: str = "", only: Sequence[str] | None = None) -> None:
    """Run what is pending, record the result and print it.

    Args:
        given: the configuration and the changes of the user.
        name: name of the result, which is also that of the report; empty for a result without a name.
        only: names of assets, or `stale`; None for all.

    Raises:
        DrirlError: the run could not start, or the name cannot be used.
        typer.Exit: code 1 when an asset failed, 130 when the user stopped the run.
    """
    check_name(name)
    selected = [word for pattern in only or () for word in ("--only", pattern)]
    again = given.command("run", *(["--name", name] if name else []), *selected)
    if name:
        given = dataclasses.replace(given, changes=(*given.changes, f"name={name}"))
    project = given.project
    require_local(project.config)
    console, todo = output(), plan(project, only)  # planned once: everything below uses this plan
    pending, costs = [asset.name for asset in todo.pending], estimates(todo, project)
    if pending:
        console.print(Text(f"{project.config.name}: {summary_line(todo, totals(todo, costs))}"), soft_wrap=True)
    for line in remarks(todo):
        console.print(Text(line), soft_wrap=True)
    for line in data_warnings(project, todo) if pending else ():
        console.print(Text(f"Warning: {line}", style="yellow"), soft_wrap=True)
    outcome, state = carry_out(project, todo, costs, console)
    if outcome.cancelled:
        _say_stopped(outcome, again)
        raise typer.Exit(130)
    if not outcome.success:
        _say_failed(outcome, again)
        raise typer.Exit(1)
    plain = not [change for change in given.changes if change != f"name={name}"]
    recorded = record(project, str(given.file), name, outcome, plain=plain) if only is None or name else None
    _say_done(given, recorded, outcome, state, "everything" if only is None else "what --only selects")


def carry_out(project: Project, todo: Plan, costs: Mapping[str, Estimate], console: Console) -> tuple[Any, RunState]:
    """Carry out a plan and show its progress.

    Args:
        project: the configuration, its graph and its store.
        todo: its plan.
        costs: estimates of the plan.
        console: where to show it.

    Returns:
        The outcome of the run (`pipeline.running.run.RunOutcome`), and what was seen of it.

    Raises:
        DrirlError: the run could not start.
    """
    with console.status("starting Dagster") if console.is_terminal else _NoSpinner():
        from pipeline.running.run import run_planned  # loads Dagster, which takes seconds

    pending = [asset.name for asset in todo.pending]
    state = RunState(pending, {name: cost.seconds for name, cost in costs.items() if cost.seconds is not None})
    with view(state, console) as shown:
        return run_planned(project, todo, shown.take), state


def record(project: Project, file: str, name: str, outcome: Any, *, plain: bool) -> Result:
    """Record what a run gave, under its name if it has one.

    Args:
        project: what was run.
        file: its configuration file as it was given.
        name: the name, or an empty text.
        outcome: of the run.
        plain: whether it was run as the file says.
    """
    versions = {asset: outcome.versions[asset] for asset in project.graph.nodes if asset in outcome.versions}
    return Results(project.store).record(result_of_run(project.config, file, name, plain, versions))


class _NoSpinner:
    """Stand in for the spinner where there is no terminal."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def _say_done(given: Given, recorded: Result | None, outcome: Any, state: RunState, asked: str) -> None:
    console, project = output(), given.project
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
        promotion.show_outlook(given, outcome.versions[CANDIDATE], console)
    if recorded:
        kept = "kept under this name" if recorded.name else "kept until `drirl gc`; `drirl run --name NAME` keeps it"
        console.print(Text(f"Recorded as {recorded.label}, {kept}."), soft_wrap=True)
    console.print("\nWhat next:", highlight=False)
    steps = _next_steps(given, recorded)
    width = max(map(len, steps))
    for command, why in steps.items():
        console.print(Text(f"  {command:<{width}}  {why}"), soft_wrap=True)


def _next_steps(given: Given, recorded: Result | None) -> dict[str, str]:
    """Return the commands that look at this result, with the file and the settings it was made with."""
    if recorded and recorded.name:  # shorter than its settings
        given = dataclasses.replace(given, changes=())
        which = ("--run", recorded.name)
    else:
        which = ()
    compare = shlex.join(["drirl", "compare", recorded.label if recorded else "ONE", "OTHER", *given.file_words])
    dev = shlex.join(["make", "dev", *(f"CONFIG={name}" for name in given.file_words)])
    return {
        given.command("chat", *which): "talk to the base and the aligned model side by side",
        given.command("report", *which, "--open"): "see the curves, the samples and the settings in a browser",
        compare: "compare this result with another one; `drirl runs` lists them",
        dev: "see this configuration as a graph in Dagster, and keep it up to date",
        "docs/how-to/own-model-and-data.md": "align your own model with your own data",
    }


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
