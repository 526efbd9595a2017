"""`drirl plan`: what is up to date, and what would run and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drirl_core.artifacts import ArtifactStore
from drirl_core.config import Config
from drirl_core.stages import build_graph
from pipeline.cli.common import duration
from pipeline.lib.plan import Plan, plan

_WORDS = {"up_to_date": ("[green]up to date[/]", 0), "will_run": ("[yellow]will run[/]", 1), "may_run": ("[cyan]may run[/]", 2)}


def show_plan(config: Config, console: Console) -> None:
    """Print state and reason of every asset, and how long the pending ones took the last time."""
    found = plan(config)
    earlier = earlier_seconds(config, found.assets)
    if console.width >= 100:
        table = Table("asset", "state", "why", "took", box=None, pad_edge=False)
        for asset in found.assets.values():
            took = duration(earlier[asset.name]) if asset.name in earlier else ""
            table.add_row(escape(asset.name), _WORDS[asset.state][0], escape(asset.why), took)
        console.print(table)
    else:  # a table would cut the reasons
        for asset in found.assets.values():
            console.print(f"{_WORDS[asset.state][0]}  {escape(asset.name)}: {escape(asset.why)}", highlight=False, soft_wrap=True)
    console.print()
    console.print(summary_line(found, earlier), highlight=False, soft_wrap=True)


def summary_line(found: Plan, earlier: Mapping[str, float]) -> str:
    """Say in one line how much there is to do, and how long it took before."""
    if found.up_to_date:
        return f"Nothing to do: all {len(found.assets)} assets are up to date."
    pending = found.pending
    certain = sum(asset.state == "will_run" for asset in pending)
    line = f"{len(found.assets) - len(pending)} of {len(found.assets)} assets are up to date; {certain} will run"
    if len(pending) > certain:
        line += f", {len(pending) - certain} may run (they are kept if what they depend on comes out as before)"
    known = [earlier[asset.name] for asset in pending if asset.name in earlier]
    if known:
        line += f". Last time {len(known)} of these took {duration(sum(known))}"
    return line + "."


def earlier_seconds(config: Config, names: Iterable[str]) -> dict[str, float]:
    """Return how long each asset took when it was last built, from its manifest; unknown ones are left out."""
    store, known = ArtifactStore.of(config), build_graph(config).nodes
    found: dict[str, float] = {}
    for name in names:
        artifact = store.latest(name, fetch=False) if name in known else None
        seconds = artifact.manifest.get("metadata", {}).get("seconds") if artifact else None
        if isinstance(seconds, int | float):
            found[name] = float(seconds)
    return found
