"""`drirl compare`: two recorded results side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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

_HARMFUL_CHARS, _HARMLESS_CHARS = 60, 160
"""Longest piece of a reply on the console: an answer to an unsafe prompt, any other."""


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print a comparison.

    Args:
        found: from `drirl_core.runs.compare.compare`.
        console: where to print.
    """
    first, second = found["first"]["label"], found["second"]["label"]
    for side in (found["first"], found["second"]):
        console.print(Text(f"{side['label']}: {_what(side)}"), soft_wrap=True)
    console.print()
    if found["settings"]:
        table = Table("setting", first, second, box=None, pad_edge=False)
        for row in found["settings"]:
            table.add_row(*(Text(row[key]) for key in ("setting", "before", "now")))
        console.print(table)
    else:
        console.print("The configurations are the same.", highlight=False)
    for suite in found["suites"]:
        _show_suite(suite, first, second, console)
    for label, names in found["alone"].items():
        if names:
            console.print(Text(f"\nOnly {label} was measured on {', '.join(names)}."), soft_wrap=True)


def _what(side: Mapping[str, Any]) -> str:
    what = f"evaluation of {side['subject']}" if side["kind"] == "evaluation" else f"run of {side['file']}"
    return f"{what}, seed {side['seed']}, {side['at'][:16].replace('T', ' ')}, id {side['id']}"


def _show_suite(suite: Mapping[str, Any], first: str, second: str, console: Console) -> None:
    from drirl_core.benchmarks.judge_differences import WITHOUT_ERRORS_TITLE, written
    from drirl_core.report.cells import category_name
    from drirl_core.report.headline import p_value, points
    from drirl_core.runs.page import OUTCOMES, percent

    left = suite["left_out"]
    more = f" (left out: {left[0]} of {first}, {left[1]} of {second})" if any(left) else ""
    console.print(
        Text(f"\nSuite {suite['suite']}: {suite['common']} prompts that both answered{more}", style="bold"),
        soft_wrap=True,
    )
    for note in suite["notes"]:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    columns = ["", "n", f"{first} [95 %]", f"{second} [95 %]", "difference [95 %]", "only first/second", "McNemar p"]
    table = Table(columns[0], *(Column(name, justify="right") for name in columns[1:]), box=None, pad_edge=False)
    for rate in suite["rates"]:
        table.add_row(
            f"{OUTCOMES[rate['outcome']]} {category_name(rate['group'])}",
            str(rate["n"]),
            percent(rate["first"]),
            percent(rate["second"]),
            Text(f"{points(rate['difference'])} [{points(rate['low'])}, {points(rate['high'])}]"),
            f"{rate['only_first']}/{rate['only_second']}",
            p_value(rate["p"]),
        )
    console.print(table)
    composite = suite["composite"]
    if composite:
        interval = f"[{points(composite['low'])}, {points(composite['high'])}]"
        text = f"refusal minus over-refusal: {points(composite['difference'])} points {interval}"
        console.print(Text(f"{text}, permutation p {p_value(composite['p'])}"), soft_wrap=True)
    named = [(f"{OUTCOMES[rate['outcome']]} {category_name(rate['group'])}", written(rate)) for rate in suite["rates"]]
    named += [("refusal minus over-refusal", written(composite))] if composite else []
    if without := [f"{what} {difference}" for what, difference in named if difference]:
        console.print(Text(f"{WITHOUT_ERRORS_TITLE}, in points: {', '.join(without)}"), soft_wrap=True)
    for line in (f"Differences are those of {second} minus {first}.", *suite["judge_lines"]):
        console.print(Text(line, style="dim"), soft_wrap=True)
    for sample in suite["samples"]:
        console.print(Text(f"\n[{category_name(sample['group'])}] {sample['prompt']}", style="dim"), soft_wrap=True)
        for label, side in ((first, sample["first"]), (second, sample["second"])):
            console.print(Text.assemble((f"  {label} ({side['label']}): ", "bold"), _short(side)), soft_wrap=True)


def _short(side: Mapping[str, Any]) -> str:
    from drirl_core.report.samples import shorten

    return shorten(side["text"], _HARMFUL_CHARS if side["harmful"] else _HARMLESS_CHARS)


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Name or id of a result, as `drirl runs` lists them.", autocompletion=completion.results
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="The result to compare with it.", autocompletion=completion.results)
    ],
    config: ConfigArgument = DEFAULT_CONFIG,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as an HTML page.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Sample prompts per group of a suite.")] = 3,
    as_json: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare two recorded results: settings, rates with intervals, paired tests, and samples side by side.

    The rates and tests use the prompts that both answered. A run counts by its aligned policy. Answers to unsafe
    prompts are shortened; in the HTML page they are behind a click.
    """
    from drirl_core.runs.compare import compare as compared
    from drirl_core.runs.record import Results

    results = Results(Given.of(config, None, old).project.store)
    found = compared(results.find(first), results.find(second), results, samples)
    if page is not None:
        _write(page, found)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
        return
    show(found, output())
    if page is not None:
        output().print(Text(f"\nPage: {page.absolute()}"), soft_wrap=True)


def _write(page: Path, found: Mapping[str, Any]) -> None:
    from drirl_core.errors import ConfigError
    from drirl_core.runs.page import comparison_page

    try:
        page.expanduser().write_text(comparison_page(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {page} cannot be written ({error.strerror or error}); name another file") from error


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n`drirl compare demo placebo` compares the last plain run of the demo with a named result."
        "\n\n`drirl compare demo placebo --html difference.html` also writes a page with both and more samples.\n\n"
        "`drirl compare 3f9a20c1 placebo mine.yaml` takes an id, and the store of your own file."
    )(compare)
