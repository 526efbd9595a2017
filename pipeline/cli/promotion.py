"""`drirl promote`, `drirl rollback`, `drirl promotions`: which policy may be used, and who decided it."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from drirl_core.artifacts import ArtifactStore
from drirl_core.config import Config
from drirl_core.errors import ConfigError
from drirl_core.promotion import Ledger, Promotion
from pipeline.cli.common import output
from pipeline.lib.gates import Gate, candidate_of, judge_candidate
from pipeline.lib.plan import plan


def promote(config: Config, version: str | None, why: str, *, check: bool, force: bool) -> None:
    """Judge a candidate, show every gate, and promote it.

    Args:
        config: names the store and the bounds.
        version: version, or its beginning, of a candidate or its policy; None for the newest.
        why: the reason.
        check: whether to leave after the gates.
        force: whether to overrule gates that fail.

    Raises:
        ConfigError: gates are to be overruled without a reason.
        ArtifactError: there is no such candidate, or the pointer was moved while the gates were asked.
        typer.Exit: code 1 when a gate failed and nobody overruled it.
    """
    if force and not why.strip():
        raise ConfigError("--force overrules gates, and the history must say why; add --why TEXT")
    console, candidate, before = output(), candidate_of(config, version), Ledger(ArtifactStore.of(config)).current()
    gates = judge_candidate(config, candidate)
    console.print(Text(f"Candidate {candidate.version}, policy {candidate.metadata['policy']}"))
    _show_gates(gates, console)
    failed = [gate for gate in gates if not gate.verdict.passed]
    if failed and not (force and not check):
        said = "nothing was moved" if check else "the promoted policy stays what it was; overrule with --force --why TEXT"
        console.print(Text(f"\n{len(failed)} of {len(gates)} gates fail: {said}.", style="bold red"), soft_wrap=True)
        raise typer.Exit(1)
    if check:
        console.print(f"\nAll {len(gates)} gates pass; `drirl promote` makes it the promoted policy.", style="bold green", highlight=False)
        return
    from pipeline.lib.promoting import ledger, person  # loads Dagster

    rows = [gate.row() for gate in gates]
    reason = why or "all gates passed"
    moved = ledger(config).promote(candidate.version, by=person(), why=reason, gates=rows, forced=force, judged_after=before)
    _say_moved(config, moved, console)


def rollback(config: Config, to: str | None, why: str) -> None:
    """Go back to an earlier promoted policy.

    Args:
        config: names the store.
        to: version, or its beginning; None for the one before.
        why: the reason.

    Raises:
        ConfigError: no reason is given.
        ArtifactError: there is nothing to go back to.
    """
    if not why.strip():
        raise ConfigError("the history must say why the policy goes back; add --why TEXT")
    from pipeline.lib.promoting import ledger, person

    _say_moved(config, ledger(config).rollback(by=person(), why=why, to=to), output())


def show_history(config: Config, console: Console) -> None:
    """Print the promoted policy and every move of the pointer, the newest first."""
    store = ArtifactStore.of(config)
    history = Ledger(store).history()
    if not history:
        console.print("No policy is promoted yet. `drirl promote --check` asks the gates of the newest candidate.", highlight=False)
        return
    console.print(Text(f"Promoted policy {history[-1].policy}: {store.open('policy_checkpoint', history[-1].policy).path}"), soft_wrap=True)
    console.print()
    for entry in reversed(history):
        console.print(Text(_line(entry)), soft_wrap=True)


def show_outlook(config: Config, console: Console) -> None:
    """Say in two lines what the gates make of the candidate of exactly this configuration."""
    planned = plan(config, ["promotion_candidate"]).assets["promotion_candidate"]
    if planned.version is None:
        return
    gates = judge_candidate(config, ArtifactStore.of(config).open("promotion_candidate", planned.version))
    failed = [gate for gate in gates if not gate.verdict.passed]
    if not failed:
        console.print(f"Promotion: all {len(gates)} gates pass; `drirl promote` makes it the promoted policy.", highlight=False)
        return
    console.print(Text(f"Promotion: {len(failed)} of {len(gates)} gates hold this policy back.", style="yellow"), soft_wrap=True)
    for gate in failed:
        console.print(Text(f"  {gate.row()['gate']}: {gate.verdict.description}"), soft_wrap=True)


def _show_gates(gates: Sequence[Gate], console: Console) -> None:
    for gate in gates:
        mark = "[green]pass[/]" if gate.verdict.passed else "[red]FAIL[/]"
        console.print(f"{mark}  [bold]{escape(gate.row()['gate'])}[/]: {escape(gate.verdict.description)}", highlight=False, soft_wrap=True)


def _say_moved(config: Config, moved: Promotion, console: Console) -> None:
    from pipeline.lib.promoting import record
    from pipeline.lib.run import open_instance

    with open_instance() as instance:
        record(instance, moved, config)
    console.print(Text(f"\n{_line(moved)}", style="bold green"), soft_wrap=True)
    path = ArtifactStore.of(config).open("policy_checkpoint", moved.policy).path
    console.print(Text(f"The promoted policy: {path}"), soft_wrap=True)


def _line(entry: Promotion) -> str:
    what = "rolled back to" if entry.action == "rollback" else "promoted"
    overruled = [str(row["gate"]) for row in entry.gates if not row["passed"]]
    note = f" (overruled: {', '.join(overruled)})" if overruled else ""
    return f"{entry.at}  {what} {entry.policy} by {entry.by}: {entry.why}{note}"
