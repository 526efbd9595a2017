"""`drirl utility`: what a model can do beside refusing, by lm-evaluation-harness on local files."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    JsonOption,
    ModelArgument,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drirl_core.store.artifacts import Artifact


def show(label: str, made: Mapping[str, Artifact], console: Console) -> None:
    """Print one line per figure, and where the answers are."""
    from drirl_core.utility.measure import ANSWERS

    table = Table("task", "measure", "part", "n", "value [95 %]", title=label, title_justify="left")
    for name, artifact in made.items():
        for row in _results(artifact)["measures"]:
            value = "-" if row["value"] is None else f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            table.add_row(name, row["measure"], row["part"], str(row["n"]), value)
    console.print(table)
    for name, artifact in made.items():
        found = _results(artifact)
        how = "chat template" if found["chat_template"] else "plain text"
        said = f"{name}: {found['title']}; {found['harness']}, task version {found['version']}, {how}"
        if found["truncated"]:
            said += f"; {found['truncated']} rows longer than the model can read, their beginning cut off"
        console.print(Text(f"{said}. Answers: {artifact.path / ANSWERS}", style="dim"), soft_wrap=True)


def _results(artifact: Artifact) -> Any:
    from drirl_core.report.reading import read_json
    from drirl_core.utility.measure import RESULTS

    return read_json(artifact.path, RESULTS, artifact.asset)


def utility_command(
    model: ModelArgument,
    config: ConfigArgument = DEFAULT_CONFIG,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME=PATH",
            help="A task and its file or the directory with it: gsm8k, truthfulqa_mc1, truthfulqa_mc2, hhh, bbq. Can "
            "be given several times; nothing is fetched.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows of each file at most; 0 for all.")] = 0,
    plain: Annotated[
        bool, typer.Option("--plain", help="Ask in plain text, as published figures of base models; else as a chat.")
    ] = False,
    shots: Annotated[
        int | None, typer.Option("--shots", min=0, help="Worked examples before a question. Default: the task's own.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Rows computed together; more need more memory.")
    ] = 8,
    changes: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure what a model can do beside refusing: mathematics, truth, the better answer, bias.

    The tasks are those of lm-evaluation-harness, `pip install "drirl[utility]"`; the rows are your own copies.
    """
    from drirl_core.runs.evaluation import find_subject
    from drirl_core.utility.harness import Asking
    from drirl_core.utility.measure import find_tasks, measure_utility

    given, tasks = Given.of(config, changes, None).before_models(), find_tasks(task or [])
    benchmarks = given.project.config.benchmarks
    seed = given.project.config.seed
    asking = Asking(not plain, shots, batch_size, benchmarks.resamples, seed)
    subject = find_subject(model, given.named())
    made = measure_utility(subject, tasks, limit, asking, given.project, ConsoleReporter())
    if as_json:
        found = {name: {"path": str(one.path), **_results(one)} for name, one in made.items()}
        sys.stdout.write(json.dumps({"model": subject.label, "tasks": found}, indent=1, allow_nan=False) + "\n")
    else:
        show(subject.label, made, output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        name="utility",
        epilog="Examples:\n\n`drirl utility dr_irl --task gsm8k=/data/gsm8k --task hhh=/data/hhh --limit 200` "
        "measures the policy of the demo on 200 questions and 200 pairs of each file.\n\n"
        "`drirl utility base --task truthfulqa_mc1=/data/TruthfulQA.csv --plain` asks the base model in plain text.",
    )(utility_command)
