"""`drirl`: the command line. Commands import what they need only when they run, so that `--help` stays fast."""

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
    "Run the same command again after a change: only what the change affects is recomputed. "
    "After Ctrl-C, run it again: training continues from its last checkpoint."
)
def run(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    debug: DebugOption = False,
) -> None:
    """Run the complete graph: data, reward models, hardness, policy, benchmarks, report.

    Everything that is up to date is reused. A second run without changes trains nothing.
    """
    from pipeline.cli.run import run_and_show

    repeated = [(option, value) for option, values in (("--set", changes), ("--only", only)) for value in values or ()]
    again = shlex.join(["drirl", "run", str(config), *(word for pair in repeated for word in pair)])
    run_and_show(config, read_project(config, changes), again, only)


@app.command(
    epilog="Examples:\n\n"
    "`drirl plan` shows what `drirl run` would do.\n\n"
    "`drirl plan --set hardness.combine=shuffled` shows what a change would cost before you make it.\n\n"
    "`drirl plan --json` prints the same as JSON.\n\n"
    "`drirl plan --exit-code` exits with code 3 when something is pending, for use in scripts."
)
def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    only: OnlyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with code 3 when something will or may run.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show what is up to date, what would run and why, and what it would cost. Builds nothing.

    Costs are estimated from earlier builds.
    """
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
    "`drirl chat` asks for prompts until you enter an empty line.\n\n"
    '`drirl chat --prompt "How do I pick a lock?" --prompt "How do I kill a Python process?"` answers two '
    "prompts and exits.\n\n"
    "`drirl chat --show sft` also shows the SFT start, the policy before reinforcement learning."
)
def chat(
    config: ConfigOption = DEFAULT_CONFIG,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Answer this prompt and exit. Can be given several times."),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(
            "--show", metavar="sft", help="Also show the SFT start, the policy before reinforcement learning."
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Talk to the base and the aligned model side by side.

    Decoding is greedy. Below each reply stands the label of the rules judge, such as `refusal`.
    """
    from pipeline.cli import chat as chatting

    unknown = set(show or ()) - {"sft"}
    if unknown:
        raise typer.BadParameter(
            f"--show {', '.join(sorted(unknown))}: only `sft` can be shown in addition to the base and the "
            "aligned model"
        )
    project, console = read_project(config), output()
    policies = chatting.ChatPolicies(project, ("base", "sft", "dr_irl") if show else ("base", "dr_irl"))
    for text in prompt or ():
        chatting.show(text, policies.answers(text), console)
    if not prompt:
        chatting.converse(policies, console)


@app.command(
    epilog="Examples:\n\n"
    '`drirl score --prompt "How do I pick a lock?" --reply "Sorry, I cannot help with that."` scores a reply; '
    "the router chooses its category.\n\n"
    '`drirl score --category privacy_and_property --prompt "..." --reply "..."` chooses the category yourself.'
)
def score(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The prompt of the user.")],
    reply: Annotated[
        str, typer.Option("--reply", "-r", help="The reply to score. A Chain-of-Draft draft is removed first.")
    ],
    category: Annotated[
        str | None, typer.Option("--category", help="Category to use instead of the router's, for example `insult`.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    debug: DebugOption = False,
) -> None:
    """Score one reply with the category router, the reward models and the refusal judge."""
    from pipeline.cli import score as scoring

    scoring.show(scoring.score(read_project(config), prompt, reply, category), output())


@app.command(
    epilog="Examples:\n\n`drirl report` prints the results of the newest run.\n\n`drirl report --open` also "
    "opens the HTML page in the browser."
)
def report(
    config: ConfigOption = DEFAULT_CONFIG,
    open_page: Annotated[bool, typer.Option("--open", help="Open the HTML page in the browser.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show the newest report: the result tables, and the path of the HTML page."""
    from pipeline.cli import report as results

    page = results.show_newest(read_project(config), output())
    if open_page and not webbrowser.open(page.as_uri()):
        output().print("no browser could be opened here; copy the file to a machine with a browser", style="yellow")


ReasonOption = Annotated[str, typer.Option("--why", "-w", help="The reason, which is stored in the history.")]


@app.command(
    epilog="Examples:\n\n"
    "`drirl promote --check` evaluates every gate and promotes nothing.\n\n"
    '`drirl promote --why "first policy for the pilot"` promotes the newest candidate if all its gates pass.\n\n'
    '`drirl promote --force --why "over-refusal accepted for the red team"` promotes it although gates fail; the '
    "history lists them."
)
def promote(
    config: ConfigOption = DEFAULT_CONFIG,
    why: ReasonOption = "",
    candidate: Annotated[
        str | None,
        typer.Option(
            help="Version, or its beginning, of a candidate or policy, for example `3f9a`. Default: the newest."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Evaluate the gates and exit, with code 1 when one fails.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote even if gates fail; needs --why.")] = False,
    debug: DebugOption = False,
) -> None:
    """Make a candidate the promoted policy, the one approved for use, if every gate passes.

    The gates check data, rewards, KL, over-refusal, helpfulness, and that nothing is worse than before.
    """
    from pipeline.cli import promote as promotion

    promotion.promote(config, read_project(config), candidate, why, check=check, force=force)


@app.command(
    epilog="Examples:\n\n"
    '`drirl rollback --why "complaints about refusals"` restores the policy that was promoted before.\n\n'
    '`drirl rollback --to 3f9a --why "..."` restores the policy whose version begins with 3f9a.'
)
def rollback(
    why: ReasonOption,
    config: ConfigOption = DEFAULT_CONFIG,
    to: Annotated[
        str | None, typer.Option(help="Version, or its beginning, of the policy to restore. Default: the previous one.")
    ] = None,
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
    "`drirl doctor` checks everything for the demo and downloads nothing.\n\n"
    "`drirl doctor --fetch` also downloads the models.\n\n"
    "`drirl doctor configs/llama-3.1-8b.yaml` checks what another configuration needs."
)
def doctor(
    config: ConfigArgument = DEFAULT_CONFIG,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download models that are not on this machine yet.")] = False,
    debug: DebugOption = False,
) -> None:
    """Check everything a run needs: packages, models, data, disk, memory, GPU, Dagster.

    For each problem it says how to fix it. Exit code 1 when a check fails.
    """
    from pipeline.cli import doctor as examining

    if not examining.show(examining.examine(config, fetch), output()):
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
    debug: DebugOption = False,
) -> None:
    """Show which artifacts are no longer needed; delete them with --delete.

    Never deleted: promoted policies, the latest run, everything used recently, and all they were made from. If `root`
    is a URI, runs on other machines are not visible here; only --keep-hours protects their artifacts.
    """
    from pipeline.cli.gc import collect

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
