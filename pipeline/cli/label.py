"""`drirl label`: choose the completions that people should label, and write a file to fill in."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    RunOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from drirl_core.config import Config
    from drirl_core.rewards.labels.queue import Queue


class By(StrEnum):
    """Ways to choose."""

    d_optimal = "d_optimal"
    random = "random"
    disagreement = "disagreement"


def make_queue(given: Given, count: int, category: str | None, by: str, out: Path | None) -> tuple[Queue, Path]:
    """Choose completions and write the file.

    Args:
        given: the configuration or a recorded result.
        count: completions to choose.
        category: whose completions; None for those of all categories.
        by: how they are chosen.
        out: file to write; None for the first free name in the default place.

    Raises:
        DrirlError: an option, an artifact or the place cannot be used.
    """
    from drirl_core.rewards.labels.queue import choose, collect, write_queue

    named = given.before_models().named()
    known = [node.category for node in named.project.graph.of("reward_model") if node.category]
    found = collect(named, [category] if category else known, ConsoleReporter())
    queue = choose(found, count, by, named.project.config.seed)  # type: ignore[arg-type]
    place = out or default_place(named.project.config)
    write_queue(queue, place)
    return queue, place


def default_place(config: Config) -> Path:
    """Return a file that does not exist: beside the drop folder where there is one, else in the working directory.

    It is not in the drop folder, whose files are taken for prompts.
    """
    folder = config.operations.inbox.folder
    beside = Path(folder).absolute().parent if folder else Path.cwd()
    number = 1
    while (place := beside / f"to_label_{number}.csv").exists():
        number += 1
    return place


def show(queue: Queue, place: Path, given: Given, console: Console) -> None:
    """Print what was chosen, what it is worth, and the next step."""
    counts = Counter(category for category, _, _ in queue.rows)
    listed = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
    files = json.dumps([*given.project.config.rewards.labels, str(place)], ensure_ascii=False)
    others = [change for change in given.changes if change.partition("=")[0].strip() != "rewards.labels"]
    again = dataclasses.replace(given, changes=(*others, f"rewards.labels={files}"), run=None)
    lines = [
        f"{len(queue.rows)} of {queue.candidates} completions are in {place} ({listed})",
        f"their labels would add {queue.growth:.1f} nats to what is known about the reward heads; as many random ones "
        f"{queue.random_growth:.1f} (log det of the information)",
        "",
        "Next: write right or wrong into the column label; leave empty what nobody can tell. Then learn from it:",
        "",
        f"  {again.command('run')}",
        "",
        "or name the file in rewards.labels of the configuration.",
    ]
    console.print(escape("\n".join(lines)), highlight=False, soft_wrap=True)


def label(
    config: ConfigArgument = DEFAULT_CONFIG,
    count: Annotated[int, typer.Option("--count", "-n", help="Completions to choose.", min=1)] = 50,
    category: Annotated[
        str | None,
        typer.Option(
            "--category",
            help="Choose among the completions of one category, for example `insult`; without it, among all.",
            autocompletion=completion.categories,
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            "--by",
            help="`d_optimal`: the labels that tell most about the reward heads; `random`; `disagreement`: where the "
            "heads of an ensemble disagree.",
        ),
    ] = By.d_optimal,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write, .csv or .jsonl; without it, `to_label_1.csv` beside the drop folder, or here.",
        ),
    ] = None,
    changes: SetOption = None,
    run: RunOption = None,
    debug: DebugOption = False,
) -> None:
    """Choose the completions whose labels would help the reward models most, and write a file for people to fill in.

    It needs finished completion pools and reward models. The filled-in file goes into `rewards.labels`.
    """
    given = Given.of(config, changes, run=run)
    queue, place = make_queue(given, count, category, by.value, out)
    show(queue, place, given, output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`drirl label` chooses 50 completions of the demo and writes `to_label_1.csv`.\n\n"
        "`drirl label mine.yaml --category insult --count 20 --out insult.jsonl` chooses 20 of one category.\n\n"
        "`drirl label mine.yaml --by random --out random.csv` chooses as many at random, to compare with."
    )(label)
