"""`drirl eval`: measure any model on any suite, without the rest of the pipeline."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    JsonOption,
    ModelArgument,
    OldConfigOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drirl_core.config import SuiteConfig
    from drirl_core.runs.record import Result
    from drirl_core.store.artifacts import Artifact


def measure(
    given: Given, model: str, suites: Sequence[SuiteConfig], name: str, best_of: int | None = None
) -> tuple[Result, dict[str, Any]]:
    """Measure a model and record the result.

    Args:
        given: the configuration, which says how long replies may be, and where the store is.
        model: what is measured; `best_of_n` is the SFT start with `benchmarks.best_of` completions to choose from.
        suites: what it is measured on.
        name: name of the result; empty for one without a name.
        best_of: number of completions to choose from by their expected reward; None for greedy decoding.

    Returns:
        The recorded result, and by suite its artifact.

    Raises:
        DrirlError: the model or the name cannot be used, or a suite cannot be read.
    """
    from drirl_core.config import BEST_OF_N, resolved
    from drirl_core.runs.evaluation import evaluate, find_subject
    from drirl_core.runs.record import Result, Results, check_name
    from drirl_core.store.journal import now

    check_name(name)
    project, reporter = given.project, ConsoleReporter()
    if model == BEST_OF_N:
        model, best_of = "sft", project.config.benchmarks.best_of if best_of is None else best_of
    subject = find_subject(model, given.named())
    if best_of is not None:
        from drirl_core.policy.best_of_n import load_reranking

        subject = subject.best_of(load_reranking(given.named(), best_of, reporter))
    made = evaluate(subject, suites, project, reporter)
    versions = {artifact.asset: artifact.version for artifact in made.values()}
    entry = Result(
        "evaluation",
        name,
        project.config.name,
        str(given.file),
        not given.changes,
        project.config.seed,
        now(),
        versions,
        resolved(project.config),
        subject.label,
    )
    return Results(project.store).record(entry), made


def show(result: Result, made: Mapping[str, Artifact], given: Given, console: Console) -> None:
    """Print the results of every suite, where the rows are, and how to compare them."""
    from drirl_core.benchmarks.judge_words import judge_line, shift_note
    from drirl_core.benchmarks.render import examination_table, prefill_line, reply_table, shift_table

    for artifact in made.values():
        found = _results(artifact, given)
        console.print(
            Text(
                f"\nSuite {found['suite']['name']} (version {found['suite']['version']}), "
                f"{sum(found['groups'].values())} prompts, {result.subject}",
                style="bold",
            ),
            soft_wrap=True,
        )
        if begun := prefill_line(found):
            console.print(Text(begun), soft_wrap=True)
        for table in (examination_table(found), reply_table(found)):
            if table:
                console.print(Text(table), no_wrap=True, crop=False, overflow="ignore")
        for line in (judge_line(found), shift_table(found), shift_note(found)):
            if line:
                console.print(Text(line, style="dim"), soft_wrap=True)
        console.print(Text(f"Rows: {artifact.path / 'replies.parquet'}"), soft_wrap=True)
    compare = shlex.join(["drirl", "compare", result.label, "OTHER", *given.file_words])
    console.print(
        Text(f"\nRecorded as {result.label}. `{compare}` compares it; `drirl runs` lists what there is."),
        soft_wrap=True,
    )


def _results(artifact: Artifact, given: Given) -> dict[str, Any]:
    """Read the results of a suite, with what is recorded of their judge."""
    from drirl_core.benchmarks.judge_words import with_errors
    from drirl_core.report.reading import read_json

    found = read_json(artifact.path, "results.json", artifact.asset)
    return with_errors(found, given.project.config, given.project.store)


def evaluate_command(
    model: ModelArgument,
    config: ConfigArgument = DEFAULT_CONFIG,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="A suite of the configuration or of the package, NAME=PATH for a declared suite with the place of its "
            "files, or a directory with a suite.yaml. Can be given several times. Default: the suites of the "
            "configuration.",
            autocompletion=completion.suites,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Rows per group at most; twins stay together. Default: all."),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            help="Sample N completions per prompt and take the one with the highest expected reward, by the reward "
            "models of the configuration. Default: one greedy completion.",
        ),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            "--prefill",
            metavar="TEXT",
            help="Words that every reply is made to begin with, such as 'Sure, here is' (a prefill attack); the suite "
            "is recorded as NAME_prefilled. Default: as the configuration says.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the result; `drirl gc` keeps it.")] = "",
    changes: SetOption = None,
    as_json: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure a model on benchmark suites, without the rest of the pipeline.

    Replies are greedy, or with `--best-of` chosen among samples, and judged as the benchmarks are. They are
    kept row by row: what was sampled before, by a run or an evaluation, is not sampled again.
    """
    from drirl_core.runs.evaluation import find_suites

    given = Given.of(config, changes, old).before_models()
    suites = find_suites(suite or [], given.project, limit, prefill)
    result, made = measure(given, model, suites, name, best_of)
    if as_json:
        found = {suite: {"path": str(one.path), **_results(one, given)} for suite, one in made.items()}
        document = {"name": result.name, "id": result.id, "model": result.subject, "suites": found}
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    else:
        show(result, made, given, output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        name="eval",
        epilog="Examples:\n\n`drirl eval base --suite twins --limit 20` measures the base model of the demo on the "
        "first 20 pairs of the suite `twins`.\n\n"
        "`drirl eval hf:org/name --suite xstest=/data/xstest_prompts.csv --suite embedded` measures a model of the "
        "hub.\n\n"
        "`drirl eval dr_irl --suite twins --prefill 'Sure, here is'` measures what the policy does when its reply is "
        "made to begin so.\n\n"
        "`drirl eval placebo --suite my_suite/ --name placebo-mine` measures the policy of a recorded result on your "
        "own suite and names the result; `drirl compare` compares it.\n\n"
        "`drirl eval sft --best-of 8 --name best-of-8` measures the SFT start with reranking by the learned rewards, "
        "as `drirl eval best_of_n` does with `benchmarks.best_of` samples.",
    )(evaluate_command)
