"""`drirl runs`: the recorded results, by name."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    Given,
    JsonOption,
    OldConfigOption,
    output,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drirl_core.runs.record import Result


def show(results: Sequence[Result], console: Console) -> None:
    """Print results, the newest first: a table where there is room for one, else some lines for each."""
    if not results:
        console.print(
            "No result is recorded yet. `drirl run --name NAME` records one under a name, `drirl eval` an evaluation.",
            highlight=False,
            soft_wrap=True,
        )
        return
    if console.width < 100:
        for entry in reversed(results):
            console.print(Text(f"{entry.label}  {_what(entry)}, seed {entry.seed}, {_date(entry)}"), soft_wrap=True)
            for line in entry.differences:
                console.print(Text(f"    {line}"), soft_wrap=True)
        return
    columns = (
        Column("name", no_wrap=True),
        Column("id", no_wrap=True),
        "result of",
        "differences from its base file",
        "seed",
        Column("date", no_wrap=True),
    )
    table = Table(*columns, box=None, pad_edge=False)
    for entry in reversed(results):
        cells = (entry.name, entry.id, _what(entry), "\n".join(entry.differences), str(entry.seed), _date(entry))
        table.add_row(*map(Text, cells))
    console.print(table)


def as_json(results: Sequence[Result], store: str) -> str:
    """Write results as JSON, the newest first.

    Args:
        results: the oldest first.
        store: where they are.
    """
    rows = [_entry(entry) for entry in reversed(results)]
    return json.dumps({"store": store, "results": rows}, indent=1)


def _entry(entry: Result) -> dict[str, Any]:
    from drirl_core.redaction import redact

    row = dataclasses.asdict(entry)
    return {
        "id": entry.id,
        **row,
        "config": redact(row["config"]),
        "base": entry.base,
        "differences": entry.differences,
    }


def _what(entry: Result) -> str:
    if entry.kind == "evaluation":
        suites = ", ".join(asset.removeprefix("evaluation_") for asset in entry.versions)
        return f"evaluation of {entry.subject} on {suites}"
    base = Path(entry.base).name if entry.base else ""
    return entry.file if base in ("", Path(entry.file).name) else f"{entry.file} (extends {base})"


def _date(entry: Result) -> str:
    return entry.at[:16].replace("T", " ")


def runs(
    config: ConfigArgument = DEFAULT_CONFIG,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="NAME",
            help="Release a name: the result is no longer listed, and `drirl gc` may delete it.",
            autocompletion=completion.results,
        ),
    ] = None,
    as_json_: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """List the recorded results: name, configuration, differences from its base file, seed, date.

    Every complete `drirl run` and every `drirl eval` is recorded in the store of its configuration. Results with a name
    are kept by `drirl gc`; the others can be compared until it deletes them.
    """
    from drirl_core.runs.record import Results

    store = Given.of(config, None, old).project.store
    results = Results(store)
    if forget is not None:
        gone = results.forget(forget)
        output().print(Text(f"{forget} ({gone.kind} {gone.id}) is forgotten; `drirl gc` may delete its artifacts."))
        return
    if as_json_:
        sys.stdout.write(as_json(results.present(), store.place) + "\n")
    else:
        show(results.present(), output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n`drirl runs` lists the results of the demo's store.\n\n"
        "`drirl runs mine.yaml --json` prints the same as JSON, with every setting.\n\n"
        "`drirl runs --forget placebo` releases a name."
    )(runs)
