"""`drirl data`: what a run would make of each file, before anything trains."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drirl_core.project import Project
from drirl_core.reporting import Reporter
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    SetOption,
    errors,
    output,
    read_project,
)
from pipeline.running.problems import once

if TYPE_CHECKING:
    from drirl_core.demonstrations.preview import OtherFile, Preview, PromptFile, Reason

DATA_EXAMPLES = (
    "Examples:\n\n"
    "`drirl data mine.yaml` shows which rows are kept, which are in quarantine and why, and what is missing.\n\n"
    "`drirl data mine.yaml --quick` does not load the sentence encoder; rows without a label are only counted.\n\n"
    "`drirl data mine.yaml --json` prints the same as JSON."
)
_CLIPPED = 70


def data(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do without the category router, which loads the sentence encoder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show what a run would make of your files: rows read, kept, quarantined and why, covered by a demonstration.

    Trains nothing and keeps nothing. Exit code 1 when a run would stop at the data.
    """
    found = look(read_project(config, changes), ConsoleReporter(errors()), quick=quick)
    if as_json:
        sys.stdout.write(to_json(found) + "\n")
    else:
        show(found, output())
    if found.problems:
        raise typer.Exit(1)


class ConsoleReporter:
    """Print warnings and the progress of the encoder to a console.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def log(self, message: str) -> None:
        """Print one line."""
        self._console.print(Text(message), soft_wrap=True)

    def progress(self, what: str, done: int, total: int) -> None:
        """Print the end of a countable task."""
        if done >= total:
            self.log(f"{what}: {total}")

    def metrics(self, step: int, values: object) -> None:
        """Ignore metrics: nothing is trained."""


def look(project: Project, reporter: Reporter, *, quick: bool = False) -> Preview:
    """Try out the data of a configuration in a temporary folder.

    Args:
        project: the configuration and its graph.
        reporter: gets warnings and progress.
        quick: whether to do without the category router, whose encoder has to be loaded.

    Raises:
        DrirlError: a file cannot be read.
    """
    from drirl_core.demonstrations.preview import preview

    if not quick:
        reporter.log("reading the files; the category router loads the sentence encoder (--quick does without it)")
    with tempfile.TemporaryDirectory(prefix="drirl-data-") as folder:
        return preview(project, reporter, Path(folder), routed=not quick)


def to_json(found: Preview) -> str:
    """Write the result as JSON for programs. Keys may be added in later versions, never removed."""
    return json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False)


def show(found: Preview, console: Console) -> None:
    """Print what becomes of each file, how far the categories are filled, and what would stop a run.

    Args:
        found: what `look` returned.
        console: where to print.
    """
    for file in found.prompts:
        _block(file.name, "prompts", file.path, [*_of_prompts(file), *_quarantine(file.quarantined)], console)
    for other in found.others:
        _block(other.name, other.role, other.path, [*_of_rows(other), *_quarantine(other.quarantined)], console)
    _categories(found, console)
    for note in found.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for warning in found.warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), warning), soft_wrap=True)
    for problem in once(found.problems):
        console.print(Text.assemble(("a run would stop: ", "bold red"), problem), soft_wrap=True)
    if not found.problems:
        console.print("Nothing here would stop a run.", style="green")


def _block(name: str, role: str, path: str, lines: list[str], console: Console) -> None:
    console.print(Text.assemble((name, "bold"), f" ({role}): {path}"), soft_wrap=True)
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print()


def _of_prompts(file: PromptFile) -> Iterator[str]:
    lost = sum(reason.rows for reason in file.quarantined)
    skipped = f", {file.skipped} marked by the file as no unsafe prompt" if file.skipped else ""
    yield f"{file.read} rows read: {file.kept} kept, {lost} in quarantine{skipped}"
    yield f"category: {file.labelled} labelled by the file, {file.routed} by the router"
    suites = ", ".join(f"{name} {rows}" for name, rows in file.overlap.items()) or "none"
    yield f"rows that repeat another one: {file.duplicates}; overlap with suites: {suites}"
    if file.covered is None:
        yield "demonstrations: written during the run"
    else:
        first = f"; the first: {_clipped(file.first_uncovered)}" if file.uncovered else ""
        yield f"demonstrations: {file.covered} prompts have one, {file.uncovered} have none and are not used{first}"


def _of_rows(file: OtherFile) -> Iterator[str]:
    lost = sum(reason.rows for reason in file.quarantined)
    rest = file.read - file.used - lost
    why = " (the pool has no such prompt, or no room for it)" if file.role == "demonstrations" else ""
    spared = f", {rest} not needed{why}" if rest > 0 else ""
    yield f"{file.read} rows read: {file.used} used, {lost} in quarantine{spared}"


def _quarantine(reasons: tuple[Reason, ...]) -> Iterator[str]:
    for reason in reasons:
        yield f"quarantine, {reason.reason}: {reason.rows}"
        for example in reason.first:
            place = f"{example.place}: " if example.place else ""
            yield f"    {place}{_clipped(example.text)} - {example.detail}"


def _categories(found: Preview, console: Console) -> None:
    table = Table("category", "prompts", "with demonstration", "filled up", "missing", box=None, pad_edge=False)
    for category in found.categories:
        missing = f"{category.missing} of {category.quota}" if category.quota else ""
        numbers = (category.prompts, category.demonstrated, category.filled_up)
        table.add_row(category.name, *map(str, numbers), missing)
    console.print(table)
    for category in found.categories:
        if category.advice:
            console.print(Text(f"{category.name}: {category.advice}"), soft_wrap=True)
    console.print()


def _clipped(text: str) -> str:
    return repr(text if len(text) <= _CLIPPED else f"{text[:_CLIPPED].rstrip()}...")
