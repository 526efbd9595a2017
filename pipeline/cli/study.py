"""`drirl study`: run a matrix of configurations and seeds, and compare them on one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from drirl_core.config.place import PROJECT, anchored
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.project import Project
from drirl_core.reporting import counted
from pipeline.cli.common import DebugOption, JsonOption, duration, errors, output

DEFAULT_STUDY = Path("configs/study.yaml")
STUDIES = PROJECT / ".drirl" / "studies"
"""Folder of the pages."""


def study(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The study.")] = DEFAULT_STUDY,
    cells: Annotated[
        list[str] | None,
        typer.Option("--cell", metavar="NAME", help="Run only this cell, with every seed. Can be given several times."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what each cell would cost, and run nothing.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Write the page of what is there, and run nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Where page and tables go.", show_default=".drirl/studies/NAME"),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run several configurations and seeds, and answer the study's questions on one page.

    Equal stages of several cells are built once. Finished cells are reused, so a cell or a seed can be added later. A
    cell that fails does not stop the others. After Ctrl-C, run the same command again.
    """
    from drirl_core.study.file import read_study
    from pipeline.executors.choice import require_local

    if plan and page:
        raise ConfigError("--plan and --page are given; give one")
    if as_json and not (plan or page):
        raise ConfigError("--json needs --plan or --page; run the study first, then ask for its tables")
    asked = read_study(file, cells or ())
    projects = {cell.result: Project(anchored(cell.config)) for cell in asked.cells}
    for project in projects.values():
        require_local(project.config)
    folder = out or STUDIES / asked.name
    if plan:
        _plan(asked, projects, as_json)
        return
    complete = asked if not cells else read_study(file)
    failures = {} if page else _run(asked, projects)
    _show(complete, projects[asked.cells[0].result], failures, folder, as_json)
    if failures:
        raise typer.Exit(1)


def _plan(asked: Any, projects: Mapping[str, Project], as_json: bool) -> None:
    from drirl_core.study.cost import costs

    found = costs(asked.cells, projects)
    if as_json:
        rows = [
            {
                "cell": cost.cell.name,
                "seed": cost.cell.seed,
                "result": cost.cell.result,
                "pending": list(cost.pending),
                "shared": list(cost.shared),
                "seconds": cost.seconds,
                "unknown": list(cost.unknown),
                "problem": cost.problem,
            }
            for cost in found
        ]
        sys.stdout.write(json.dumps({"study": asked.name, "cells": rows}, indent=1) + "\n")
        return
    console = output()
    table = Table(
        "cell", Column("to build", justify="right"), Column("shared", justify="right"), "time", box=None, pad_edge=False
    )
    for cost in found:
        table.add_row(cost.cell.label, str(len(cost.pending)), str(len(cost.shared)), _time(cost))
    console.print(table)
    unknown = list(dict.fromkeys(name for cost in found for name in cost.unknown))
    if unknown:
        console.print(Text(f"\nNever ran with such settings: {', '.join(unknown)}."), soft_wrap=True)
    console.print(f"\n{_total(found)}", highlight=False, soft_wrap=True)


def _time(cost: Any) -> str:
    if cost.problem:
        return f"cannot run: {cost.problem}"
    if not cost.pending:
        return "nothing to build" if not cost.shared else "shares everything with cells above"
    known = "" if cost.seconds is None else f"about {duration(cost.seconds)}"
    unknown = f"{counted(len(cost.unknown), 'asset')} never ran with such settings" if cost.unknown else ""
    return "; ".join(part for part in (known, unknown) if part)


def _total(found: Sequence[Any]) -> str:
    seconds = sum(cost.seconds or 0.0 for cost in found)
    waiting = sum(bool(cost.pending) for cost in found)
    unknown = sum(len(cost.unknown) for cost in found)
    more = f", and {counted(unknown, 'asset')} of unknown cost" if unknown else ""
    return f"{len(found)} cells, {waiting} with something to build: about {duration(seconds)}{more}."


def _run(asked: Any, projects: Mapping[str, Project]) -> dict[str, str]:
    """Run every cell; return why cells failed, by the name of their result.

    Raises:
        typer.Exit: code 130 when the user stopped it.
    """
    from drirl_core.graph.estimates import estimates
    from drirl_core.graph.plan import plan
    from drirl_core.runs.record import Results
    from drirl_core.study.cost import costs
    from drirl_core.study.outcomes import why_not
    from pipeline.cli.run import carry_out, record

    console, failures = output(), {}
    named = {entry.name: entry for entry in Results(projects[asked.cells[0].result].store).named()}
    console.print(Text(f"{asked.name}: {_total(costs(asked.cells, projects))}"), soft_wrap=True)
    for number, cell in enumerate(asked.cells, 1):
        project = projects[cell.result]
        console.print(Text(f"\nCell {number} of {len(asked.cells)}: {cell.label}", style="bold"), soft_wrap=True)
        try:
            todo, entry = plan(project), named.get(cell.result)
            if todo.up_to_date and entry and not why_not(cell, entry) and dict(entry.versions) == dict(todo.known):
                console.print(Text(f"{cell.label}: finished before", style="green"), soft_wrap=True)
                continue
            outcome, _ = carry_out(project, todo, estimates(todo, project), console)
        except DrirlError as error:
            failures[cell.result] = str(error)
            errors().print(Text.assemble(("Failed: ", "bold red"), str(error)), soft_wrap=True)
            continue
        if outcome.cancelled:
            errors().print("Stopped. Run the same command again: finished cells and stages are kept.", highlight=False)
            raise typer.Exit(130)
        if not outcome.success:
            failures[cell.result] = "; ".join(outcome.failures) or "the run failed without a message"
            for failure in outcome.failures:
                errors().print(Text.assemble(("Failed: ", "bold red"), failure), soft_wrap=True)
            continue
        record(project, str(asked.base), cell.result, outcome, plain=False)
        what = (
            f"{len(outcome.built)} assets built, {len(outcome.reused)} reused" if outcome.built else "finished before"
        )
        console.print(Text(f"{cell.label}: {what}, {duration(outcome.seconds)}", style="green"), soft_wrap=True)
    return failures


def _show(asked: Any, project: Project, failures: Mapping[str, str], folder: Path, as_json: bool) -> None:
    from drirl_core.benchmarks.judge_differences import WITHOUT_ERRORS_TITLE, written
    from drirl_core.runs.record import Results
    from drirl_core.study.outcomes import read_outcomes
    from drirl_core.study.tables import tables_of, write_study
    from drirl_core.study.verdicts import judge_lines

    found = read_outcomes(asked, Results(project.store), failures)
    if not found.measured:
        reasons = "; ".join(f"{cell}: {reason}" for cell, reason in list(found.missing.items())[:3])
        advice = "every cell that was tried failed" if failures else f"run `drirl study {asked.file}`"
        raise ConfigError(f"no cell of {asked.name} has a result ({reasons}); {advice}")
    tables = tables_of(asked, found, project.store)
    page = write_study(folder, asked, found, tables)
    if as_json:
        document = {"study": asked.name, "page": str(page), "missing": found.missing, **tables}
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        return
    console = output()
    for suite in found.suites:
        _show_suite(suite, [row for row in tables["methods"] if row["suite"] == suite], console)
        for line in judge_lines(suite, found, tables["methods"]):
            console.print(Text(line, style="dim"), soft_wrap=True)
    for question in asked.questions:
        console.print(Text(f"\n{question.ask}", style="bold"), soft_wrap=True)
        own = [row for row in tables["answers"] if (row["first"], row["second"]) == (question.first, question.second)]
        for row in own:
            console.print(Text(f"  {row['sentence']}"), soft_wrap=True)
            if without := written(row):
                console.print(Text(f"  {WITHOUT_ERRORS_TITLE.capitalize()} {without} points.", "dim"), soft_wrap=True)
        if not own:
            console.print("  Not measured yet on unsafe prompts or look-alikes of a common suite.", highlight=False)
    for label, reason in found.missing.items():
        console.print(Text(f"\nNo result of {label}: {reason}", style="yellow"), soft_wrap=True)
    console.print(Text(f"\nPage: {page}\nTables: {page.parent} (parquet, CSV, LaTeX)"), soft_wrap=True)


def _show_suite(suite: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    from drirl_core.benchmarks.render import POLICY_NAMES
    from drirl_core.study.page import MEASURES

    console.print(Text(f"\nSuite {suite}", style="bold"))
    known = [(key, name) for key, name in MEASURES if any(row[key] is not None for row in rows)]
    heads = [*(f"{name} [95 %]" for _, name in known), "AUC"]
    table = Table("policy", *(Column(name, justify="right") for name in ("seeds", *heads)), box=None, pad_edge=False)
    for row in rows:
        auc = "" if row["auc"] is None else f"{row['auc']:.3f}"
        name = POLICY_NAMES.get(row["method"], row["method"])
        table.add_row(Text(name), str(row["seeds"]), *(_interval(row, key) for key, _ in known), auc)
    console.print(table)


def _interval(row: Mapping[str, Any], key: str) -> Text:
    if row[key] is None:
        return Text("")
    return Text(f"{100 * row[key]:.1f} [{100 * row[f'{key}_low']:.1f}, {100 * row[f'{key}_high']:.1f}]")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n`drirl study --plan` shows what the shipped study would cost.\n\n"
        "`drirl study mine.yaml` runs every cell that is not finished, and writes the page.\n\n"
        "`drirl study mine.yaml --cell placebo` runs one cell; the page shows all that are there.\n\n"
        "`drirl study mine.yaml --page --out results` writes page and tables again, and runs nothing."
    )(study)
