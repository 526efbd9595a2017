"""`drirl judge`: how often a judge is wrong on labelled replies."""

from __future__ import annotations

import dataclasses
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from drirl_core.errors import DataError
from drirl_core.store.disk import replace_text
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    JsonOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drirl_core.benchmarks.judges.labelled import LabelledSet
    from drirl_core.benchmarks.judges.verdicts import Judge, Verdict


class Name(StrEnum):
    """Judges."""

    rules = "rules"
    embedded = "embedded"
    llm = "llm"


def judges_of(given: Given, names: Sequence[str]) -> dict[str, Judge]:
    """Return judges by name, as the configuration sets them up.

    Args:
        given: the configuration.
        names: which judges; none for the one of `benchmarks.judge`.

    Raises:
        DrirlError: a judge lacks a setting, its weights cannot be read, or its URL cannot be used.
    """
    from drirl_core.benchmarks.judging import make_judge

    found = {}
    for name in dict.fromkeys(names or [given.project.config.benchmarks.judge]):
        chosen = (*given.changes, f"benchmarks.judge={name}", "benchmarks.second_judge=none")
        project = dataclasses.replace(given, changes=chosen).before_models().project
        found[name] = make_judge(name, project.config, project.store, ConsoleReporter())
    return found


def document(labelled: LabelledSet, made: Mapping[str, tuple[dict[str, Any], list[Verdict]]]) -> dict[str, Any]:
    """Return the errors, and every reply with the verdict of each judge."""
    rows = [
        {
            **dataclasses.asdict(row),
            "verdicts": {name: dataclasses.asdict(verdicts[i]) for name, (_, verdicts) in made.items()},
        }
        for i, row in enumerate(labelled.rows)
    ]
    return {"errors": [error for error, _ in made.values()], "rows": rows}


def write(found: Mapping[str, Any], place: Path) -> None:
    """Write a document as JSON, complete or not at all.

    Raises:
        DataError: the place cannot be written.
    """
    try:
        replace_text(place, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(f"{place} cannot be written ({error.strerror or error}); name another file") from error


def judge_command(
    labelled: Annotated[
        str,
        typer.Argument(
            metavar="LABELLED",
            help="`hand_read`, the set that comes with the package, or a file of labelled replies: columns prompt, "
            "reply and refused or label; or XSTest's annotated completions; or rbr_gold.",
        ),
    ],
    config: ConfigArgument = DEFAULT_CONFIG,
    judge: Annotated[
        list[Name] | None,
        typer.Option("--judge", help="Can be given several times. Default: `benchmarks.judge` of the configuration."),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="Only prompts whose SHA-256 is odd: on the others of XSTest the rules were worded, and on the others "
            "of any set the embedded judge is fitted.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many calls to an endpoint it would take; send nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Also write the figures and every verdict as JSON."),
    ] = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how often judges are wrong on labelled replies: false and missed refusals, and the refusal rate.

    The verdicts of the `llm` judge are kept one by one: none is paid for twice, also after a stop. Its error is
    recorded beside the artifacts, and reports of results that it judged show it.
    """
    from drirl_core.benchmarks.judges.error import bill_line, bill_of, error_lines
    from drirl_core.benchmarks.judges.labelled import read_labelled_set
    from drirl_core.benchmarks.judges.recorded import measure_and_record

    rows, given = read_labelled_set(labelled, held_out=held_out), Given.of(config, changes)
    judges = judges_of(given, [name.value for name in judge or ()])
    if dry_run:
        bills = {name: bill_of(one, rows) for name, one in judges.items()}
        shown: Any = {name: dataclasses.asdict(bill) if bill else None for name, bill in bills.items()}
        lines = [bill_line(name, bill) for name, bill in bills.items()]
    else:
        made = {name: measure_and_record(one, rows, given.project.store) for name, one in judges.items()}
        shown = {"errors": [error for error, _ in made.values()]}
        lines = [line for error, _ in made.values() for line in error_lines(error)]
        if out is not None:
            write(document(rows, made), out)
            lines.append(f"Figures and verdicts: {out}")
        if "llm" in made:
            lines.append("The error of the llm judge is recorded: reports of results that it judged show it.")
    if as_json:
        sys.stdout.write(json.dumps(shown, indent=1, allow_nan=False) + "\n")
    else:
        output().print(escape("\n".join(lines)), highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        name="judge",
        epilog="Examples:\n\n`drirl judge hand_read` measures the judge of the demo on the replies that come with the "
        "package.\n\n"
        "`drirl judge xstest_annotated_completions.csv --held-out --judge rules --judge embedded --set "
        "benchmarks.embedded.folder=judges/mine` measures two judges on XSTest's human labels.\n\n"
        "`drirl judge hand_read --judge llm --set benchmarks.llm.url=http://127.0.0.1:8000/v1 --set "
        "benchmarks.llm.model=my-judge --dry-run` says how many calls a judge behind an endpoint would take; without "
        "`--dry-run` it is measured.",
    )(judge_command)
