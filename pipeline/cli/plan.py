"""`drirl plan`: what is up to date, what would run and why, and what it would cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from drirl_core.config import EMBEDDED
from drirl_core.errors import DrirlError
from drirl_core.graph.estimates import Build, Estimate, Totals, estimates, totals
from drirl_core.graph.layout import Node
from drirl_core.graph.plan import Plan, PlannedAsset, plan
from drirl_core.preflight import POLICY_STAGES
from drirl_core.project import Project
from drirl_core.reporting import amount
from pipeline.cli.common import duration
from pipeline.running.looking import needs_problems

if TYPE_CHECKING:
    from drirl_core.planning.gpus import Gpu
    from drirl_core.planning.plan import GpuPlan

_WORDS = {"up_to_date": "[green]up to date[/]", "will_run": "[yellow]will run[/]", "may_run": "[cyan]may run[/]"}


def show_plan(project: Project, console: Console, only: Sequence[str] | None = None, everything: bool = False) -> Plan:
    """Print state, reason and cost of every asset that will or may run, and how many are up to date.

    Args:
        project: the configuration, its graph and its store.
        console: where to print.
        only: names of assets, or `stale`; None for all.
        everything: whether to print the assets that are up to date as well.

    Returns:
        The plan.
    """
    found = plan(project, only)
    costs = estimates(found, project)
    _show_assets([asset for asset in found.assets.values() if everything or asset.pending], costs, console)
    current = len(found.assets) - len(found.pending)
    if current and not everything:
        console.print(f"{current} up to date (--all lists {'it' if current == 1 else 'them'})", style="green")
    console.print()
    console.print(escape(summary_line(found, totals(found, costs))), highlight=False, soft_wrap=True)
    for line in [*remarks(found), *_data_lines(project, found)]:
        console.print(escape(line), highlight=False, soft_wrap=True)
    return found


def _show_assets(assets: Sequence[PlannedAsset], costs: Mapping[str, Estimate], console: Console) -> None:
    if console.width >= 100 and assets:
        columns = (
            Column("asset", no_wrap=True),
            Column("state", no_wrap=True),
            "why",
            "took last",
            "will take",
            "tokens",
        )
        table = Table(*columns, box=None, pad_edge=False)
        for asset in assets:
            cells = map(escape, _cells(asset, costs[asset.name]))
            table.add_row(escape(asset.name), _WORDS[asset.state], escape(asset.why), *cells)
        console.print(table)
    else:  # a table would cut off the reasons
        for asset in assets:
            took, takes, tokens = _cells(asset, costs[asset.name])
            cost = f" ({takes}{f', {tokens} tokens' if tokens else ''})" if takes else f" (took {took})" if took else ""
            text = f"{asset.name}: {asset.why}{cost}"
            console.print(f"{_WORDS[asset.state]}  {escape(text)}", highlight=False, soft_wrap=True)


def summary_line(found: Plan, cost: Totals) -> str:
    """Say in one line how much there is to do, and what it will cost."""
    if found.up_to_date:
        return f"Nothing to do: all {len(found.assets)} assets are up to date."
    pending = found.pending
    certain = sum(asset.state == "will_run" for asset in pending)
    line = f"{len(found.assets) - len(pending)} of {len(found.assets)} assets are up to date; {certain} will run"
    if len(pending) > certain:
        line += f", {len(pending) - certain} may run (they are reused if their inputs come out unchanged)"
    return f"{line}. Cost: {cost}."


def remarks(found: Plan) -> list[str]:
    """Say what reading the suites showed, and name the stale assets that the selection `stale` leaves out."""
    names = ", ".join(found.left_out)
    left_out = [f"Left out, because they need assets that were never built: {names}."] if names else []
    return [*found.notes, *left_out]


def data_warnings(project: Project, found: Plan) -> list[str]:
    """Look into the user's own files and say what a run would not use.

    Args:
        project: the configuration, its graph and its store.
        found: its plan.

    Raises:
        DrirlError: a file cannot be read or a suite is not declared, so that a run would stop.
    """
    if not any(project.graph.nodes[name].stage == "dataset" for name in found.assets):
        return []
    if any(suite.path != EMBEDDED for suite in project.config.benchmarks.suites):
        from drirl_core.benchmarks.suites import find_suite

        for suite in project.config.benchmarks.suites:
            find_suite(suite)
    from drirl_core.demonstrations.coverage import expected

    return expected(project, found.known)


def _data_lines(project: Project, found: Plan) -> list[str]:
    try:
        lines = [f"Warning: {line}" for line in data_warnings(project, found)]
        pending = {project.graph.nodes[asset.name].stage for asset in found.pending}
        loads = pending & POLICY_STAGES
        return lines + [f"A run would stop: {line}" for line in (needs_problems(project.config) if loads else ())]
    except DrirlError as error:
        return [f"A run would stop: {error}"]


def show_gpu_plan(project: Project, gpu: Gpu, command: str, console: Console) -> GpuPlan:
    """Print memory and time of every stage that uses a model, their total, and what to do next.

    Args:
        project: the configuration.
        gpu: the card.
        command: runs the configuration, for the last line.
        console: where to print.

    Returns:
        The plan.

    Raises:
        DrirlError: the configuration, its files or its model cannot be counted.
    """
    from drirl_core.planning.gpus import GIB
    from drirl_core.planning.plan import plan_for

    found = plan_for(project.config, gpu)
    console.print(f"{found.reference} on {gpu}, {gpu.usable / GIB:.1f} GiB for tensors", highlight=False)
    right = {"justify": "right", "no_wrap": True}
    columns = (Column("stage", no_wrap=True), Column("peak", **right), "largest part", Column("time", **right))
    table = Table(*columns, box=None, pad_edge=False)
    refused = {refusal.stage for refusal in found.refusals}
    for stage in found.stages:
        parts = stage.peak.parts
        share = getattr(parts, parts.largest.replace(" ", "_")) / max(1, parts.total)
        table.add_row(
            f"[red]{escape(stage.name)}[/]" if stage.name in refused else escape(stage.name),
            f"{parts.total / GIB:.1f} GiB",
            f"{parts.largest}, {share:.0%} ({stage.peak.name})",
            "" if stage.seconds is None else duration(stage.seconds),
        )
    table.add_row("total", "", "", "" if found.seconds is None else duration(found.seconds))
    console.print(table)
    lines = [*found.notes, *(f"Does not fit: {refusal}." for refusal in found.refusals)]
    if found.larger:
        lines.append(f"Next: plan it for a card on which everything fits as it is: --gpu {found.larger}")
    elif found.changes:
        changes = " ".join(f"--set {name}={value}" for name, value in found.changes.items())
        lines.append(f"Next: plan it again with {changes}")
    elif not found.refusals:
        lines.append(f"Next: {command}")
    console.print()
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
    return found


def plan_json(project: Project, only: Sequence[str] | None = None, on: GpuPlan | None = None) -> tuple[Plan, str]:
    """Write the plan as JSON for programs. Keys may be added in later versions, never removed.

    Args:
        project: the configuration, its graph and its store.
        only: names of assets, or `stale`; None for all.
        on: the plan for a card, where one is named.

    Returns:
        The plan, and JSON text of an object with `config`, `root`, `up_to_date`, `counts`, `totals`, `assets` and
        `notes`; `data`, sentences about the user's files, where something is wrong with them; and `gpu`, all figures
        of the plan for a card, where one is named.
    """
    found = plan(project, only)
    config, costs, graph = project.config, estimates(found, project), project.graph
    states = [asset.state for asset in found.assets.values()]
    document: dict[str, Any] = {
        "config": config.name,
        "root": config.root,
        "up_to_date": found.up_to_date,
        "counts": {
            **{state: states.count(state) for state in _WORDS},
            "stale": sum(asset.stale for asset in found.assets.values()),
        },
        "totals": _rounded(dataclasses.asdict(totals(found, costs))),
        "assets": [{**_place(graph.nodes[name]), **_entry(asset, costs[name])} for name, asset in found.assets.items()],
        "notes": list(found.notes),
    }
    if lines := _data_lines(project, found):
        document["data"] = lines
    if on is not None:
        from drirl_core.planning.plan import as_data

        document["gpu"] = as_data(on)
    return found, json.dumps(document, indent=1)


def _place(node: Node) -> dict[str, Any]:
    return {"stage": node.stage, "category": node.category, "suite": node.suite}


def _entry(asset: PlannedAsset, cost: Estimate) -> dict[str, Any]:
    names = ("name", "state", "stale", "why", "version", "waits_for")
    took = dataclasses.asdict(cost.last) if cost.last else None
    takes = {key: value for key, value in dataclasses.asdict(cost).items() if key != "last"}
    return {
        **{name: getattr(asset, name) for name in names},
        "causes": [{**dataclasses.asdict(cause), "text": str(cause)} for cause in asset.causes],
        "took": _rounded(took) if took else None,
        "estimate": _rounded(takes) if asset.pending else None,
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: (round(value) if "tokens" in key else round(value, 2)) if isinstance(value, float) else value
        for key, value in values.items()
    }


def _cells(asset: PlannedAsset, cost: Estimate) -> tuple[str, str, str]:
    """Return the time of the last build, the expected time, and the tokens; empty where unknown."""
    took = duration(cost.last.seconds) if cost.last else ""
    if not asset.pending:
        return took, "", _tokens(cost.last)
    if cost.seconds is None:
        return took, f"unknown: {cost.how}", ""
    return took, f"{duration(cost.seconds)} ({cost.how})", _tokens(Build(cost.seconds, cost.tokens))


def _tokens(build: Build | None) -> str:
    return amount(build.tokens) if build and build.tokens else ""
