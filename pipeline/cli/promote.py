"""`drirl promote`, `drirl rollback`, `drirl promotions`: which policy is approved for use, and who decided it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from drirl_core.errors import ArtifactError, ConfigError
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    Given,
    JsonOption,
    OldConfigOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from drirl_core.checks.gates import Gate
    from drirl_core.promotion import Promotion
    from drirl_core.store.artifacts import ArtifactStore

ReasonOption = Annotated[str, typer.Option("--why", "-w", help="The reason, which is stored in the history.")]


def command(given: Given, candidate: str | None = None, *more: str) -> str:
    """Return the `drirl promote` command for the configuration and the candidate that the user gave.

    Args:
        given: the configuration as it was given.
        candidate: version, or its beginning; None for that of the configuration.
        more: further arguments.
    """
    return given.command("promote", *more, *(["--candidate", candidate] if candidate else []))


def judge_and_promote(given: Given, version: str | None, why: str, *, check: bool, force: bool) -> None:
    """Judge a candidate, show every gate, and promote it.

    Args:
        given: the configuration, which names the store, the bounds, and the candidate where no version does.
        version: version, or its beginning, of a candidate or its policy; None for the one that the configuration plans.
        why: the reason.
        check: whether to stop after the gates.
        force: whether to overrule gates that fail.

    Raises:
        ConfigError: gates are to be overruled but no reason is given, or the Dagster home cannot be used.
        ArtifactError: there is no such candidate, another process moved the pointer while the gates were evaluated, or
            the move could not be recorded in Dagster.
        typer.Exit: code 1 when a gate failed and nobody overruled it.
    """
    if force and not why.strip():
        raise ConfigError("--force overrules gates, and the history must say why; add --why TEXT")
    from drirl_core.checks.gates import candidate_of, judge_candidate
    from drirl_core.promotion import Ledger

    console, project = output(), given.project
    candidate, before = candidate_of(project, version, given.command("run")), Ledger(project.store).current()
    gates = judge_candidate(project, candidate)
    console.print(Text(f"Candidate {candidate.version}, policy {candidate.metadata['policy']}"))
    _show_gates(gates, console)
    failed = [gate for gate in gates if not gate.verdict.passed]
    if failed and not (force and not check):
        said = (
            "nothing was moved" if check else "the promoted policy stays what it was; overrule with --force --why TEXT"
        )
        console.print(Text(f"\n{len(failed)} of {len(gates)} gates fail: {said}.", style="bold red"), soft_wrap=True)
        raise typer.Exit(1)
    if check:
        said = f"\nAll {len(gates)} gates pass; `{command(given, version)}` makes it the promoted policy."
        console.print(Text(said, style="bold green"), soft_wrap=True)
        return
    from pipeline.wiring.promoting import ledger, person  # loads Dagster

    rows = [gate.row() for gate in gates]
    reason = why or "all gates passed"
    _move(
        given,
        lambda: ledger(project).promote(
            candidate.version, by=person(), why=reason, gates=rows, forced=force, judged_after=before
        ),
    )


def go_back(given: Given, to: str | None, why: str) -> None:
    """Go back to an earlier promoted policy.

    Args:
        given: the configuration, which names the store.
        to: version, or its beginning; None for the previous one.
        why: the reason.

    Raises:
        ConfigError: no reason is given, or the Dagster home cannot be used.
        ArtifactError: there is no earlier policy, or the move could not be recorded in Dagster.
    """
    if not why.strip():
        raise ConfigError("the history must say why the policy goes back; add --why TEXT")
    from pipeline.wiring.promoting import ledger, person

    _move(given, lambda: ledger(given.project).rollback(by=person(), why=why, to=to))


def show_history(given: Given, console: Console) -> None:
    """Print the promoted policy and every move of the pointer, the newest first.

    Args:
        given: the configuration, which names the store.
        console: where to print.
    """
    from drirl_core.promotion import Ledger

    store = given.project.store
    history = Ledger(store).history()
    if not history:
        said = (
            f"No policy is promoted yet. `{command(given, None, '--check')}` evaluates the gates of the candidate "
            "of this configuration."
        )
        console.print(Text(said), soft_wrap=True)
        return
    console.print(Text(f"Promoted policy {history[-1].policy}: {_place(store, history[-1])}"), soft_wrap=True)
    console.print()
    for entry in reversed(history):
        console.print(Text(_line(entry)), soft_wrap=True)


def history_json(given: Given) -> str:
    """Write the promoted policy and every move of the pointer, the newest first, as JSON.

    Args:
        given: the configuration, which names the store.

    Returns:
        JSON text of an object with `store`, `promoted` (the last move, or null) and `history`.
    """
    from drirl_core.promotion import Ledger

    store = given.project.store
    rows = [{**dataclasses.asdict(entry), "gates": list(entry.gates)} for entry in reversed(Ledger(store).history())]
    return json.dumps({"store": store.place, "promoted": rows[0] if rows else None, "history": rows}, indent=1)


def show_outlook(given: Given, version: str, console: Console) -> None:
    """Print whether a candidate passes the gates, and the gates that fail.

    Args:
        given: the configuration, whose bounds hold.
        version: version of the candidate.
        console: where to print.
    """
    from drirl_core.checks.gates import judge_candidate
    from drirl_core.promotion import CANDIDATE

    project = given.project
    gates = judge_candidate(project, project.store.open(CANDIDATE, version))
    failed = [gate for gate in gates if not gate.verdict.passed]
    if not failed:
        said = f"Promotion: all {len(gates)} gates pass; `{command(given, version)}` makes it the promoted policy."
        console.print(Text(said), soft_wrap=True)
        return
    console.print(
        Text(f"Promotion: {len(failed)} of {len(gates)} gates fail for this policy.", style="yellow"), soft_wrap=True
    )
    for gate in failed:
        console.print(Text(f"  {gate.row()['gate']}: {gate.verdict.description}"), soft_wrap=True)


def _show_gates(gates: Sequence[Gate], console: Console) -> None:
    for gate in gates:
        mark = "[green]pass[/]" if gate.verdict.passed else "[red]FAIL[/]"
        console.print(
            f"{mark}  [bold]{escape(gate.row()['gate'])}[/]: {escape(gate.verdict.description)}",
            highlight=False,
            soft_wrap=True,
        )


def _move(given: Given, move: Callable[[], Promotion]) -> None:
    """Open the Dagster home, then move the pointer, so that a retry after an error does not move it twice.

    Raises:
        ConfigError: the Dagster home cannot be used; nothing was moved.
        ArtifactError: the pointer could not be moved, or it was moved but Dagster does not show it.
    """
    from pipeline.instance.home import chosen_home, home_errors_explained
    from pipeline.running.run import open_instance
    from pipeline.wiring.promoting import record

    console, project = output(), given.project
    with open_instance() as instance:
        moved = move()
        try:
            with home_errors_explained(chosen_home()):
                record(instance, moved, project)
        except (Exception, KeyboardInterrupt) as error:
            overruling = ("--force", "--why", moved.why) if moved.forced else ()
            again = command(given, moved.candidate, *overruling)
            raise ArtifactError(
                f"the pointer DID move, so do not move it again: {_line(moved)}. Dagster has not recorded this "
                "move: promoted_policy shows "
                f"the previous one ({error or type(error).__name__}). When that is fixed, `{again}` records it "
                "in Dagster "
                "and moves nothing; `drirl promotions` shows where the pointer is"
            ) from error
    console.print(Text(f"\n{_line(moved)}", style="bold green"), soft_wrap=True)
    console.print(Text(f"The promoted policy: {_place(project.store, moved)}"), soft_wrap=True)


def _place(store: ArtifactStore, moved: Promotion) -> str:
    try:
        return str(store.open("policy_checkpoint", moved.policy).path)
    except ArtifactError as error:  # the history must be shown anyway: it says which policies one can go back to
        return f"its files cannot be opened: {error}"


def _line(entry: Promotion) -> str:
    what = "rolled back to" if entry.action == "rollback" else "promoted"
    overruled = [str(row["gate"]) for row in entry.gates if not row["passed"]]
    note = f" (overruled: {', '.join(overruled)})" if overruled else ""
    return f"{entry.at}  {what} {entry.policy} by {entry.by}: {entry.why}{note}"


def promote(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    why: ReasonOption = "",
    candidate: Annotated[
        str | None,
        typer.Option(
            help="Version, or its beginning, of a candidate or policy, for example `3f9a`. Default: the candidate of "
            "the configuration."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Evaluate the gates and exit, with code 1 when one fails.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote even if gates fail; needs --why.")] = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Make the candidate of a configuration the promoted policy, the one approved for use, if every gate passes.

    The gates check data, rewards, KL, over-refusal, helpfulness, and that nothing is worse than before.
    """
    judge_and_promote(Given.of(config, changes, old), candidate, why, check=check, force=force)


def rollback(
    why: ReasonOption,
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    to: Annotated[
        str | None, typer.Option(help="Version, or its beginning, of the policy to restore. Default: the previous one.")
    ] = None,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Move the promoted policy back to one that was promoted before."""
    go_back(Given.of(config, changes, old), to, why)


def promotions(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    as_json: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Show the promoted policy and the history of all promotions and rollbacks in the store of a configuration."""
    given = Given.of(config, changes, old)
    if as_json:
        sys.stdout.write(history_json(given) + "\n")
    else:
        show_history(given, output())


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`drirl promote --check` evaluates every gate and promotes nothing.\n\n"
        '`drirl promote mine.yaml --why "first policy for the pilot"` promotes the candidate of your own file if all '
        "its gates pass.\n\n"
        '`drirl promote --force --why "over-refusal accepted for the red team"` promotes it although gates fail; the '
        "history lists them."
    )(promote)
    app.command(
        epilog="Examples:\n\n"
        '`drirl rollback --why "complaints about refusals"` restores the policy that was promoted before.\n\n'
        '`drirl rollback mine.yaml --to 3f9a --why "..."` restores the policy whose version begins with 3f9a.'
    )(rollback)
    app.command(
        epilog="Examples:\n\n`drirl promotions` shows which policy is promoted, and who moved it when and why.\n\n"
        "`drirl promotions mine.yaml --json` prints the same as JSON."
    )(promotions)
