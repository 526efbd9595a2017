"""`drirl`: the command line. Commands import what they need only when they run, so that `--help` stays fast."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from drirl_core import __version__
from pipeline.cli import (
    attack,
    chat,
    compare,
    eval,
    export,
    judge,
    label,
    promote,
    push,
    report,
    runs,
    score,
    study,
    train,
    utility,
)
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    Given,
    Guarded,
    JsonOption,
    OnlyOption,
    SetOption,
    find_config,
    output,
    read_project,
)
from pipeline.cli.data import DATA_EXAMPLES, data

KEEP_HOURS_HELP = (
    "Keep everything used within the last so many hours. If `root` is a URI, choose more than the longest run takes."
)

app = typer.Typer(
    name="drirl",
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align a chat model by inverse reinforcement learning with dynamic reward scaling (DR-IRL).",
    epilog="Start here: `drirl doctor` checks this machine, `drirl run` trains the demo, `drirl chat` talks to "
    "the result. "
    "`drirl COMMAND --help` shows examples of a command. `make dev` opens the same run as a graph in Dagster.",
)


def _version(wanted: bool) -> None:
    if wanted:
        output().print(f"drirl {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Align a chat model by inverse reinforcement learning with dynamic reward scaling (DR-IRL)."""


@app.command(
    epilog="Examples:\n\n"
    "`drirl run` runs the demo: a model with 135M parameters, on a CPU.\n\n"
    "`drirl run mine.yaml --set policy.steps=48 --set seed=1` runs your own file with two settings changed.\n\n"
    "`drirl run --only 'reward_model_*'` builds the reward models and everything they need, then stops.\n\n"
    "`drirl run --only stale` updates what was built before and builds nothing new.\n\n"
    "`drirl run --name placebo --set hardness.combine=shuffled` gives the result a name: `drirl runs` lists it, "
    "`drirl compare demo placebo` compares it, and `drirl gc` keeps it.\n\n"
    "Run the same command again after a change: only what the change affects is recomputed. "
    "After Ctrl-C, run it again: training continues from its last checkpoint."
)
def run(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the result: of its report, in `drirl runs` and `drirl compare`; `drirl gc` keeps it.",
        ),
    ] = "",
    debug: DebugOption = False,
) -> None:
    """Run the complete graph: data, reward models, hardness, policy, benchmarks, report.

    Everything that is up to date is reused. A second run without changes trains nothing.
    """
    from pipeline.cli.run import run_and_show

    run_and_show(Given.of(config, changes), name, only)


@app.command(
    epilog="Examples:\n\n"
    "`drirl plan` shows what `drirl run` would do.\n\n"
    "`drirl plan --all` also lists what is up to date.\n\n"
    "`drirl plan --set hardness.combine=shuffled` shows what a change would cost before you make it.\n\n"
    "`drirl plan --json` prints the same as JSON.\n\n"
    "`drirl plan configs/llama-3.1-8b.yaml --gpu h100` shows memory and time of each stage on a card, before anything "
    "is downloaded but config.json and the tokenizer; exit code 1 when a stage does not fit.\n\n"
    "`drirl plan --exit-code` exits with code 3 when something is pending, for use in scripts."
)
def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    everything: Annotated[bool, typer.Option("--all", help="List the assets that are up to date as well.")] = False,
    gpu: Annotated[
        str,
        typer.Option(
            "--gpu",
            metavar="NAME[:COUNT]",
            help="Show memory and time of each stage on a card, such as h100, h200, a100-80, l40s or rtx4090:2, or the "
            "memory alone on a size such as 24GiB; `cpu` shows the usual plan.",
        ),
    ] = "cpu",
    as_json: JsonOption = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with code 3 when something will or may run.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what would run and why, and what it would cost; the rest is summed up. Builds nothing.

    Costs are estimated from earlier builds. Benchmark suites are read, to see whether they repeat training prompts.
    With --gpu, memory and time of each stage are computed from the settings and the model's config.json.
    """
    from drirl_core.planning.gpus import gpu_named
    from pipeline.cli import plan as planning

    project, card = read_project(config, changes), gpu_named(gpu)
    if card is not None and not as_json:
        again = Given.of(config, changes).command("run")
        if planning.show_gpu_plan(project, card, again, output()).refusals:
            raise typer.Exit(1)
        return
    if as_json:
        from drirl_core.planning.plan import plan_for

        on = None if card is None else plan_for(project.config, card)
        found, text = planning.plan_json(project, only, on)
        sys.stdout.write(text + "\n")
        if on is not None and on.refusals:
            raise typer.Exit(1)
    else:
        found = planning.show_plan(project, output(), only, everything)
    if exit_code and not found.up_to_date:
        raise typer.Exit(3)


for module in (
    chat, score, judge, label, report, runs, compare, study, eval, utility, attack, promote, export, push,
    train
):  # fmt: skip
    module.register(app)


@app.command(
    epilog="Examples:\n\n"
    "`drirl doctor` checks everything for the demo and downloads nothing.\n\n"
    "`drirl doctor --fetch` also downloads the models.\n\n"
    "`drirl doctor configs/llama-3.1-8b.yaml` checks what another configuration needs.\n\n"
    "`drirl doctor --json` prints the results as JSON."
)
def doctor(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download models that are not on this machine yet.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check everything a run needs: packages, models, data, disk, memory, GPU, Dagster.

    For each problem it says how to fix it. Exit code 1 when a check fails.
    """
    from pipeline.cli import doctor as examining

    found = examining.examine(config, fetch, changes or ())
    if as_json:
        healthy, text = examining.as_json(found)
        sys.stdout.write(text + "\n")
    else:
        healthy = examining.show(found, output())
    if not healthy:
        raise typer.Exit(1)


app.command(epilog=DATA_EXAMPLES)(data)


@app.command(
    epilog="Examples:\n\n"
    "`drirl dev` shows the demo on http://127.0.0.1:3000; `make dev` does the same.\n\n"
    "`drirl dev configs/llama-3.1-8b.yaml --port 3001` shows another configuration at the same time."
)
def dev(
    config: ConfigArgument = DEFAULT_CONFIG,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the page has no password, so keep it local.")
    ] = "127.0.0.1",
    debug: DebugOption = False,
) -> None:
    """Start Dagster with the asset graph: build assets, watch runs, and keep everything up to date."""
    from pipeline.cli import dev as serving
    from pipeline.executors.choice import require_extra

    path = find_config(config)
    require_extra(read_project(path).config)
    serving.serve(path, host, port)


@app.command(
    epilog="Examples:\n\n"
    "`drirl home` is needed once. Then `dg dev` and `dagster dev` show the same history as `drirl run` and `drirl dev`."
)
def home(debug: DebugOption = False) -> None:
    """Prepare the project's Dagster home and name it in `.env`, so that dg and dagster keep their history there.

    An exported DAGSTER_HOME takes precedence.
    """
    from pipeline.cli import home as homes
    from pipeline.instance.settings import ROOT

    homes.show(ROOT, output())


@app.command(
    epilog="Examples:\n\n"
    "`drirl gc` shows how much can be deleted, and deletes nothing.\n\n"
    "`drirl gc --delete` deletes it.\n\n"
    "`drirl gc mine.yaml --keep-hours 168` shows the same, but keeps everything used within the last week."
)
def gc(
    config: ConfigArgument = DEFAULT_CONFIG,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete everything that the table lists as removable.")
    ] = False,
    keep_hours: Annotated[float, typer.Option("--keep-hours", help=KEEP_HOURS_HELP, min=0)] = 24.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show which artifacts are no longer needed; delete them with --delete.

    Never deleted: promoted policies, named results, the latest run, everything used recently, and all they were made
    from. If `root` is a URI, runs on other machines are not visible here; only --keep-hours protects their artifacts.
    """
    from pipeline.cli.gc import collect, collect_json

    if as_json:
        collect_json(read_project(config), keep_hours, delete)
        return
    again = shlex.join(["drirl", "gc", str(config), "--delete", "--keep-hours", f"{keep_hours:g}"])
    collect(read_project(config), keep_hours, delete, again, output())


@app.command(
    epilog="Examples:\n\n"
    "`drirl ingest mine.yaml` processes the drop folder of `mine.yaml` (setting `operations.inbox.folder`).\n\n"
    "While `make dev` runs, this happens automatically every half minute."
)
def ingest(config: ConfigArgument = DEFAULT_CONFIG, debug: DebugOption = False) -> None:
    """Process the drop folder once: accept the files that can be used, reject the others with a reason.

    Exit code 1 when a file was rejected.
    """
    from pipeline.cli import ingest as ingesting

    swept = ingesting.ingest(read_project(config))
    ingesting.show(swept, config, output())
    if swept.rejected:
        raise typer.Exit(1)


@app.command(
    name="config",
    epilog="Examples:\n\n"
    "`drirl config` prints all settings of the demo.\n\n"
    "`drirl config --explain > mine.yaml` writes a template for your own file: every setting with its help text.",
)
def config_command(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write the help text of each setting above it, as a YAML comment.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Print the resolved settings: defaults, the file, the files it extends, and --set.

    The output is a valid configuration file.
    """
    from pipeline.cli import config as settings

    loaded = read_project(config, changes).config
    text = settings.explained_yaml(loaded) if explain else settings.plain_yaml(loaded)
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        output().print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        sys.stdout.write(text)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
