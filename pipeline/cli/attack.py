"""`drirl attack`: search for suffixes against a policy, and write a suite that every policy can be measured on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from drirl_core.benchmarks.attacks import TARGET
from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    ModelArgument,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from drirl_core.benchmarks.attacks.suite import Made


def show(made: Made, model: str, given: Given, console: Console) -> None:
    """Print how far the attack came, and how to measure it."""
    before, after = (sum(row[name] for row in made.rows) / len(made.rows) for name in ("loss_before", "loss"))
    lines = [
        f"{len(made.rows)} attacked prompts are in {made.folder}"
        + (f"; {len(made.left_out)} could not be attacked" if made.left_out else ""),
        f"loss of the target, mean: {before:.2f} nats per token without suffix, {after:.2f} with it",
        "",
        "Next: measure the policy that was attacked, and any other one on the same prompts (transfer):",
        "",
        *(
            f"  {shlex.join(['drirl', 'eval', name, *given.file_words, '--suite', str(made.folder)])}"
            for name in (model, "dr_irl" if model != "dr_irl" else "base")
        ),
        "",
        "or list it in benchmarks.suites of the configuration: {name: gcg, path: " + str(made.folder) + "}.",
    ]
    console.print(escape("\n".join(lines)), highlight=False, soft_wrap=True)


def attack_command(
    model: ModelArgument,
    config: ConfigArgument = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Directory to write; it must not exist.")
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="The suite whose unsafe prompts are attacked, as for `drirl eval`.",
            autocompletion=completion.suites,
        ),
    ] = "embedded",
    limit: Annotated[int, typer.Option("--limit", min=0, help="Prompts at most; 0 for all.")] = 20,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the search per prompt.")] = 100,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="Suffixes tried per step; more need more memory.")
    ] = 64,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="TEXT", help="How replies should begin; {category} stands for the category of a prompt."
        ),
    ] = TARGET,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the search.")] = 0,
    changes: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Attack a policy: find suffixes for unsafe prompts after which it is likely to begin with an answer (GCG).

    The search is that of PyRIT, `pip install "drirl[attacks]"`. What it finds is a suite: `drirl eval` measures any
    policy on it. A stopped search goes on where it was.
    """
    from drirl_core.benchmarks.attacks.gcg import Search, library_version
    from drirl_core.benchmarks.attacks.suite import attack_suite
    from drirl_core.config.reading import require
    from drirl_core.runs.evaluation import find_subject, find_suites

    require(out is not None, "say where the attacked suite is to be written, --out FOLDER")
    library_version()
    given = Given.of(config, changes).before_models()
    (source,) = find_suites([suite], given.project, limit)
    subject, search = find_subject(model, given.named()), Search(steps, candidates, seed=seed)
    place = Path(out).expanduser().absolute()  # type: ignore[arg-type]
    made = attack_suite(subject, source, search, target, place, given.project, ConsoleReporter())
    show(made, model, given, output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        name="attack",
        epilog="Examples:\n\n"
        "`drirl attack dr_irl --out attacked/dr_irl --limit 20 --steps 50` attacks the policy of the demo on 20 unsafe "
        "prompts of its suite; `drirl eval dr_irl --suite attacked/dr_irl` measures it.\n\n"
        "`drirl attack base --out attacked/base` attacks the base model; `drirl eval dr_irl --suite attacked/base` "
        "says whether the suffixes carry over.",
    )(attack_command)
