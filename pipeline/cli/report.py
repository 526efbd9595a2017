"""`drirl report`: print the results of a configuration: headline, tables, path of the HTML page."""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from drirl_core.errors import ArtifactError
from drirl_core.store.artifacts import Artifact
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    Given,
    JsonOption,
    OldConfigOption,
    RunOption,
    SetOption,
    errors,
    output,
)

_COLOURS = {"win": "green", "none": "yellow", "loss": "red"}


def show(report: Artifact, console: Console) -> Path:
    """Print a report's headline and tables and the path of its page.

    Raises:
        ArtifactError: its summary cannot be read.
    """
    from drirl_core.benchmarks.judge_words import judge_line, shift_note
    from drirl_core.benchmarks.render import best_of_n_line, examination_table, reply_table, shift_table

    summary = _summary(report)
    for line in _origin(summary):
        console.print(Text(line, style="dim"), soft_wrap=True)
    headline = summary["headline"]
    console.print(Text(headline["sentence"], style=f"bold {_COLOURS.get(headline['tone'], 'white')}"), soft_wrap=True)
    console.print(Text(headline["detail"]), soft_wrap=True)
    for results in summary["suites"]:
        console.print()
        console.print(
            Text(f"Suite {results['suite']['name']}, {sum(results['groups'].values())} prompts"), soft_wrap=True
        )
        for table in (examination_table(results), reply_table(results)):
            console.print(Text(table), no_wrap=True, crop=False, overflow="ignore")
        for line in (best_of_n_line(results), judge_line(results), shift_table(results), shift_note(results)):
            if line:
                console.print(Text(line, style="dim"), soft_wrap=True)
    page = report.path / "report.html"
    console.print()
    console.print(Text(f"Report: {page}"), soft_wrap=True)
    return page


def _summary(report: Artifact) -> Mapping[str, Any]:
    path = report.path / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); delete {report.path} and run `drirl run` again"
        ) from error


def _origin(summary: Mapping[str, Any]) -> list[str]:
    """Say which result it is, and how its settings differ from the file it started from."""
    differences = summary.get("base", {}).get("differences", [])
    if not differences:
        return []
    listed = "; ".join(f"{row['setting']}: {row['before']} -> {row['now']}" for row in differences)
    return [f"{summary['name']} differs from {Path(summary['base']['file']).name} in {listed}"]


def report(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    run: RunOption = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the HTML page in the browser.")] = False,
    as_json: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show the report of a configuration: the result tables, and the path of the HTML page."""
    found = Given.of(config, changes, old, run).named().one("report")
    if as_json:
        page = found.path / "report.html"
        document = {"version": found.version, "page": str(page), **_summary(found)}
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    else:
        page = show(found, output())
    if open_page and not webbrowser.open(page.as_uri()):
        errors().print("no browser could be opened here; copy the file to a machine with a browser", style="yellow")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n`drirl report` prints the results of the demo.\n\n"
        "`drirl report mine.yaml --set seed=1 --open` shows the run of your own file with one setting changed, and "
        "opens its HTML page in the browser.\n\n"
        "`drirl report --run placebo` shows a named result.\n\n"
        "`drirl report --json` prints all numbers as JSON."
    )(report)
