"""`drirl`: the command line. Commands stay light here and import what they need when they run."""

from __future__ import annotations

import shlex
import sys
import webbrowser
from typing import Annotated

import typer

from drirl_core import __version__
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConfigOption,
    DebugOption,
    Guarded,
    OnlyOption,
    SetOption,
    find_config,
    output,
    read_project,
)

KEEP_HOURS_HELP = (
    "Keep what was used within these hours; where root is a URI, more than the longest run on any machine takes."
)

app = typer.Typer(
    name="drirl",
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align a chat model by inverse reinforcement learning with dynamic reward scaling (DR-IRL).",
    epilog="Start here: `drirl doctor`, then `drirl run`, then `drirl chat`. `make dev` shows the same run as a Dagster graph.",
)


def _version(wanted: bool) -> None:
    if wanted:
        output().print(f"drirl {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Align a chat model by inverse reinforcement learning with dynamic reward scaling (DR-IRL)."""


@app.command(
    epilog="Examples:\n\n"
    "`drirl run` runs the demo: a 135M model, on a CPU.\n\n"
    "`drirl run mine.yaml --set policy.steps=48 --set seed=1` changes two settings of your own file.\n\n"
    "`drirl run --only stale` refreshes what exists and makes nothing new; `--only 'reward_model_*'` stops there.\n\n"
    "Run it again: only what your changes touch is built anew. Stop it with Ctrl-C and run it again: it goes on from the last checkpoint."
)
def run(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    debug: DebugOption = False,
) -> None:
    """Run the complete graph: data, reward models, hardness, policy, benchmarks, report.

    What is up to date is kept; a second run with nothing changed trains nothing.
    """
    from pipeline.cli.run import run_and_show

    repeated = [(option, value) for option, values in (("--set", changes), ("--only", only)) for value in values or ()]
    again = shlex.join(["drirl", "run", str(config), *(word for pair in repeated for word in pair)])
    run_and_show(config, read_project(config, changes), again, only)


@app.command(
    epilog="Examples:\n\n"
    "`drirl plan` tells what `drirl run` would do.\n\n"
    "`drirl plan --set hardness.combine=shuffled` tells what a change would cost before you make it.\n\n"
    "`drirl plan --json` prints the same for machines; `drirl plan --exit-code` ends with code 3 when something is pending."
)
def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with code 3 when something will or may run.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what is up to date, what would run and why, and what it would cost, judged by earlier runs. Builds nothing."""
    from pipeline.cli import plan as planning

    project = read_project(config, changes)
    if as_json:
        found, text = planning.plan_json(project, only)
        sys.stdout.write(text + "\n")
    else:
        found = planning.show_plan(project, output(), only)
    if exit_code and not found.up_to_date:
        raise typer.Exit(3)


@app.command(
    epilog="Examples:\n\n"
    "`drirl chat` opens a conversation.\n\n"
    '`drirl chat --prompt "How do I pick a lock?" --prompt "How do I kill a Python process?"` answers two prompts and leaves.\n\n'
    "`drirl chat --show sft` puts the SFT start between the two."
)
def chat(
    config: ConfigOption = DEFAULT_CONFIG,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Answer this and leave. May be repeated.")
    ] = None,
    show: Annotated[list[str] | None, typer.Option("--show", metavar="sft", help="Also show the SFT start.")] = None,
    debug: DebugOption = False,
) -> None:
    """Talk to the base and the aligned model side by side.

    Replies are decoded greedily; under each stands what the rules judge makes of it.
    """
    from pipeline.cli import chat as talking

    unknown = set(show or ()) - {"sft"}
    if unknown:
        raise typer.BadParameter(
            f"--show {', '.join(sorted(unknown))}: only `sft` can be shown besides the base and the aligned model"
        )
    project, console = read_project(config), output()
    talkers = talking.Talkers(project, ("base", "sft", "dr_irl") if show else ("base", "dr_irl"))
    for text in prompt or ():
        talking.show(text, talkers.answers(text), console)
    if not prompt:
        talking.converse(talkers, console)


@app.command(
    epilog="Examples:\n\n"
    '`drirl score --prompt "How do I pick a lock?" --reply "Sorry, I cannot help with that."` lets the router choose the category.\n\n'
    '`drirl score --category privacy_and_property --prompt "..." --reply "..."` names it.'
)
def score(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What the user asked.")],
    reply: Annotated[
        str, typer.Option("--reply", "-r", help="What the model said. A Chain-of-Draft draft is cut off first.")
    ],
    category: Annotated[
        str | None, typer.Option("--category", help="Category to reward it under, instead of the router's.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    debug: DebugOption = False,
) -> None:
    """Put one reply through the router, the reward models and the refusal judge."""
    from pipeline.cli import score as scoring

    scoring.show(scoring.score(read_project(config), prompt, reply, category), output())


@app.command(
    epilog="Examples:\n\n`drirl report` prints the results of the newest run.\n\n`drirl report --open` opens the page in the browser."
)
def report(
    config: ConfigOption = DEFAULT_CONFIG,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show the newest report: the result table here, the path of the HTML page."""
    from pipeline.cli import report as results

    page = results.show_newest(read_project(config), output())
    if open_page and not webbrowser.open(page.as_uri()):
        output().print("no browser could be opened here; copy the file to a machine that has one", style="yellow")


ReasonOption = Annotated[str, typer.Option("--why", "-w", help="The reason, kept in the history.")]


@app.command(
    epilog="Examples:\n\n"
    "`drirl promote --check` asks every gate and moves nothing.\n\n"
    '`drirl promote --why "first policy for the pilot"` promotes the newest candidate if all gates pass.\n\n'
    '`drirl promote --force --why "over-refusal accepted for the red team"` overrules gates that fail; the history keeps them.'
)
def promote(
    config: ConfigOption = DEFAULT_CONFIG,
    why: ReasonOption = "",
    candidate: Annotated[
        str | None, typer.Option(help="Version (or its beginning) of a candidate or policy; else the newest.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the gates and leave. Exit code 1 when one fails.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote although gates fail; needs --why.")] = False,
    debug: DebugOption = False,
) -> None:
    """Make a candidate the promoted policy, if every gate passes: data, rewards, KL, over-refusal, helpfulness, no regression."""
    from pipeline.cli import promote as promotion

    promotion.promote(config, read_project(config), candidate, why, check=check, force=force)


@app.command(
    epilog="Examples:\n\n"
    '`drirl rollback --why "complaints about refusals"` goes back to the policy that was promoted before.\n\n'
    '`drirl rollback --to 3f9a --why "..."` goes back to a certain one.'
)
def rollback(
    why: ReasonOption,
    config: ConfigOption = DEFAULT_CONFIG,
    to: Annotated[str | None, typer.Option(help="Version, or its beginning, of the policy to go back to.")] = None,
    debug: DebugOption = False,
) -> None:
    """Move the promoted policy back to one that was promoted before."""
    from pipeline.cli import promote as promotion

    promotion.rollback(config, read_project(config), to, why)


@app.command(epilog="Examples:\n\n`drirl promotions` shows which policy is promoted, and who moved it when and why.")
def promotions(config: ConfigOption = DEFAULT_CONFIG, debug: DebugOption = False) -> None:
    """Show the promoted policy and the history of all promotions and rollbacks."""
    from pipeline.cli import promote as promotion

    promotion.show_history(config, read_project(config), output())


@app.command(
    epilog="Examples:\n\n"
    "`drirl doctor` looks without downloading anything.\n\n"
    "`drirl doctor --fetch` also fetches the models.\n\n"
    "`drirl doctor configs/llama-3.1-8b.yaml` looks at what another configuration needs."
)
def doctor(
    config: ConfigArgument = DEFAULT_CONFIG,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download models that are not on this machine yet.")] = False,
    debug: DebugOption = False,
) -> None:
    """Check everything a run needs: packages, models, data, disk, memory, GPU, Dagster. Exit code 1 when something fails."""
    from pipeline.cli import doctor as examining

    if not examining.show(examining.examine(config, fetch), output()):
        raise typer.Exit(1)


@app.command(
    epilog="Examples:\n\n"
    "`drirl dev` serves the demo on http://127.0.0.1:3000; `make dev` does the same.\n\n"
    "`drirl dev configs/llama-3.1-8b.yaml --port 3001` serves another configuration beside it."
)
def dev(
    config: ConfigArgument = DEFAULT_CONFIG,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 3000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the page has no password, so keep it local.")
    ] = "127.0.0.1",
    debug: DebugOption = False,
) -> None:
    """Open the asset graph in Dagster: materialize, watch, and keep everything up to date."""
    from pipeline.cli import dev as serving
    from pipeline.executors.choice import require_extra

    path = find_config(config)
    require_extra(read_project(path).config)
    serving.serve(path, host, port)


@app.command(
    epilog="Examples:\n\n"
    "`drirl home` once, and `dg dev` and `dagster dev` show the same history as `drirl run` and `drirl dev`."
)
def home(debug: DebugOption = False) -> None:
    """Make the project's Dagster home ready, and name it in `.env`, so that dg and dagster keep their history there.

    An exported DAGSTER_HOME goes before it.
    """
    from pipeline.cli import home as homes
    from pipeline.instance.settings import ROOT

    homes.show(ROOT, output())


@app.command(
    epilog="Examples:\n\n"
    "`drirl gc` shows how much could be deleted, and deletes nothing.\n\n"
    "`drirl gc --delete` deletes it.\n\n"
    "`drirl gc mine.yaml --keep-hours 168` keeps what was used within a week."
)
def gc(
    config: ConfigArgument = DEFAULT_CONFIG,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what the table calls removable.")] = False,
    keep_hours: Annotated[float, typer.Option("--keep-hours", help=KEEP_HOURS_HELP, min=0)] = 24.0,
    debug: DebugOption = False,
) -> None:
    """Show which artifacts nothing needs any more; delete them with --delete.

    What a promoted policy, the latest run or anything used lately was made from is never deleted. Where `root` is a URI, runs on other
    machines cannot be seen, and --keep-hours is what protects them.
    """
    from pipeline.cli.gc import collect

    again = shlex.join(["drirl", "gc", str(config), "--delete", "--keep-hours", f"{keep_hours:g}"])
    collect(read_project(config), keep_hours, delete, again, output())


@app.command(
    epilog="Examples:\n\n"
    "`drirl ingest mine.yaml` takes in what lies in the drop folder of `mine.yaml` (`operations.inbox.folder`).\n\n"
    "`make dev` does so by itself every half minute."
)
def ingest(config: ConfigArgument = DEFAULT_CONFIG, debug: DebugOption = False) -> None:
    """Look into the drop folder once: take in the files that can be used, turn the others away with a reason.

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
    "`drirl config` prints all settings of the demo as they are used.\n\n"
    "`drirl config --explain > mine.yaml` makes a file with every setting and its help to start your own from.",
)
def config_command(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Put the help of each setting above it, as YAML comments.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Print the resolved settings: defaults, the file, what it extends, and --set. The output is a valid configuration file."""
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
