"""`drirl promote`, `drirl rollback`, `drirl promotions`: which policy may be used, and who decided it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from drirl_core.checks.gates import Gate, candidate_of, judge_candidate
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.project import Project
from drirl_core.promotion import CANDIDATE, Ledger, Promotion
from drirl_core.store.artifacts import ArtifactStore
from pipeline.cli.common import DEFAULT_CONFIG, output


def command(file: Path, candidate: str | None = None, *more: str) -> str:
    """Return the `drirl promote` that means the configuration, and the candidate, that the user gave.

    Args:
        file: the configuration as it was given.
        candidate: version, or its beginning; None for the newest.
        more: further words.
    """
    chosen = ["--config", str(file)] if file != DEFAULT_CONFIG else []
    named = ["--candidate", candidate] if candidate else []
    return shlex.join(["drirl", "promote", *more, *chosen, *named])


def promote(file: Path, project: Project, version: str | None, why: str, *, check: bool, force: bool) -> None:
    """Judge a candidate, show every gate, and promote it.

    Args:
        file: the configuration as it was given, for the commands that are printed.
        project: names the store and the bounds.
        version: version, or its beginning, of a candidate or its policy; None for the newest.
        why: the reason.
        check: whether to leave after the gates.
        force: whether to overrule gates that fail.

    Raises:
        ConfigError: gates are to be overruled without a reason, or the Dagster home cannot be used.
        ArtifactError: there is no such candidate, the pointer was moved while the gates were asked, or the graph could not
            be told of the move.
        typer.Exit: code 1 when a gate failed and nobody overruled it.
    """
    if force and not why.strip():
        raise ConfigError("--force overrules gates, and the history must say why; add --why TEXT")
    console, candidate, before = output(), candidate_of(project, version), Ledger(project.store).current()
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
        said = f"\nAll {len(gates)} gates pass; `{command(file, version)}` makes it the promoted policy."
        console.print(Text(said, style="bold green"), soft_wrap=True)
        return
    from pipeline.wiring.promoting import ledger, person  # loads Dagster

    rows = [gate.row() for gate in gates]
    reason = why or "all gates passed"
    _move(
        file,
        project,
        lambda: ledger(project).promote(
            candidate.version, by=person(), why=reason, gates=rows, forced=force, judged_after=before
        ),
    )


def rollback(file: Path, project: Project, to: str | None, why: str) -> None:
    """Go back to an earlier promoted policy.

    Args:
        file: the configuration as it was given, for the commands that are printed.
        project: names the store.
        to: version, or its beginning; None for the one before.
        why: the reason.

    Raises:
        ConfigError: no reason is given, or the Dagster home cannot be used.
        ArtifactError: there is nothing to go back to, or the graph could not be told of the move.
    """
    if not why.strip():
        raise ConfigError("the history must say why the policy goes back; add --why TEXT")
    from pipeline.wiring.promoting import ledger, person

    _move(file, project, lambda: ledger(project).rollback(by=person(), why=why, to=to))


def show_history(file: Path, project: Project, console: Console) -> None:
    """Print the promoted policy and every move of the pointer, the newest first.

    Args:
        file: the configuration as it was given, for the command that is printed.
        project: names the store.
        console: where to print.
    """
    store = project.store
    history = Ledger(store).history()
    if not history:
        said = f"No policy is promoted yet. `{command(file, None, '--check')}` asks the gates of the newest candidate."
        console.print(Text(said), soft_wrap=True)
        return
    console.print(Text(f"Promoted policy {history[-1].policy}: {_place(store, history[-1])}"), soft_wrap=True)
    console.print()
    for entry in reversed(history):
        console.print(Text(_line(entry)), soft_wrap=True)


def show_outlook(file: Path, project: Project, version: str, console: Console) -> None:
    """Say in two lines what the gates make of a candidate.

    Args:
        file: the configuration as it was given, for the command that is printed.
        project: the store, and the bounds with what the user changed.
        version: version of the candidate.
        console: where to print.
    """
    gates = judge_candidate(project, project.store.open(CANDIDATE, version))
    failed = [gate for gate in gates if not gate.verdict.passed]
    if not failed:
        said = f"Promotion: all {len(gates)} gates pass; `{command(file, version)}` makes it the promoted policy."
        console.print(Text(said), soft_wrap=True)
        return
    console.print(
        Text(f"Promotion: {len(failed)} of {len(gates)} gates hold this policy back.", style="yellow"), soft_wrap=True
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


def _move(file: Path, project: Project, move: Callable[[], Promotion]) -> None:
    """Move the pointer once the graph can be told of it, so that whoever tries again after an error does not move twice.

    Raises:
        ConfigError: the Dagster home cannot be used; nothing was moved.
        ArtifactError: the pointer could not be moved, or it was and the graph does not show it.
    """
    from pipeline.instance.home import chosen_home, home_errors_explained
    from pipeline.running.run import open_instance
    from pipeline.wiring.promoting import record

    console = output()
    with open_instance() as instance:
        moved = move()
        try:
            with home_errors_explained(chosen_home()):
                record(instance, moved, project)
        except (Exception, KeyboardInterrupt) as error:
            overruling = ("--force", "--why", moved.why) if moved.forced else ()
            again = command(file, moved.candidate, *overruling)
            raise ArtifactError(
                f"the pointer DID move, so do not move it again: {_line(moved)}. The graph lacks this move: promoted_policy shows "
                f"the one before ({error or type(error).__name__}). When that is mended, `{again}` adds it to the graph "
                "and moves nothing; `drirl promotions` shows where the pointer is"
            ) from error
    console.print(Text(f"\n{_line(moved)}", style="bold green"), soft_wrap=True)
    console.print(Text(f"The promoted policy: {_place(project.store, moved)}"), soft_wrap=True)


def _place(store: ArtifactStore, moved: Promotion) -> str:
    try:
        return str(store.open("policy_checkpoint", moved.policy).path)
    except ArtifactError as error:  # the history is what tells where one can go back to
        return f"its files cannot be opened: {error}"


def _line(entry: Promotion) -> str:
    what = "rolled back to" if entry.action == "rollback" else "promoted"
    overruled = [str(row["gate"]) for row in entry.gates if not row["passed"]]
    note = f" (overruled: {', '.join(overruled)})" if overruled else ""
    return f"{entry.at}  {what} {entry.policy} by {entry.by}: {entry.why}{note}"
