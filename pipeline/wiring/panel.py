"""The plan as an asset: what is stale, why and at what cost, on one page of Dagster and over time."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from drirl_core.errors import DrirlError
from drirl_core.graph.estimates import Estimate, estimates, totals
from drirl_core.graph.plan import Plan, PlannedAsset, plan
from drirl_core.project import Project
from drirl_core.reporting import amount, duration
from pipeline.wiring.code_references import code_references
from pipeline.wiring.display import KEY_FIGURES, figure_table, markdown_table

PANEL, GROUP = "retraining_plan", "operations"


def plan_panel(project: Project, owners: list[str]) -> dg.AssetsDefinition:
    """Return the observable asset whose observation contains the plan; nothing depends on it.

    Args:
        project: what to plan for.
        owners: owners of the asset.
    """
    spec = dg.AssetSpec(
        PANEL,
        group_name=GROUP,
        description="What `drirl run` would recompute, why, and at what cost, at the time of the last observation.",
        owners=owners,
        kinds={"python"},
        tags={"drirl/stage": "plan"},
        metadata=code_references("drirl_core.graph.plan:plan", project.config),
    )

    def observe_plan() -> Iterator[dg.ObserveResult]:
        try:
            found = plan(project)
        except DrirlError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        metadata = observation(found, estimates(found, project))
        yield dg.ObserveResult(asset_key=PANEL, data_version=dg.DataVersion(plan_version(found)), metadata=metadata)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # the decorator for a single source has no owners and no kinds
        return dg.multi_observable_source_asset(name="observe_plan", specs=[spec])(observe_plan)


def plan_version(found: Plan) -> str:
    """Hash the states of a plan, so that an unchanged plan keeps its version."""
    text = "\n".join(f"{asset.name} {asset.state} {asset.version or asset.why}" for asset in found.assets.values())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def observation(found: Plan, costs: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return what an observation shows.

    Args:
        found: the plan.
        costs: the estimates of its assets.

    Returns:
        Key figures, the table and the totals as text, then counts as numbers, which Dagster plots over time.
    """
    cost = totals(found, costs)
    states = [asset.state for asset in found.assets.values()]
    rows = [_row(asset, costs[asset.name]) for asset in found.assets.values()]
    figures = [
        ("assets that are up to date", f"{states.count('up_to_date')} of {len(states)}"),
        ("assets that would run", str(states.count("will_run"))),
        ("assets that run only if an input turns out different", str(states.count("may_run"))),
    ]
    numbers = {
        "seconds": cost.seconds,
        "most_seconds": cost.most_seconds,
        "tokens": None if cost.tokens is None else round(cost.tokens),
        "most_tokens": None if cost.most_tokens is None else round(cost.most_tokens),
    }
    return {
        KEY_FIGURES: dg.MetadataValue.md(figure_table(figures)),
        "plan": dg.MetadataValue.md(markdown_table(rows)),
        "cost": "nothing to do" if found.up_to_date else str(cost),
        "up_to_date": states.count("up_to_date"),
        "will_run": states.count("will_run"),
        "may_run": states.count("may_run"),
        "stale": sum(asset.stale for asset in found.assets.values()),
        "unknown_cost": len(cost.never_ran) + len(cost.not_comparable),
        **{name: number for name, number in numbers.items() if number is not None},  # unknown costs are not 0
    }


def _row(asset: PlannedAsset, cost: Estimate) -> dict[str, str]:
    took = duration(cost.last.seconds) if cost.last else "never ran"
    takes = f"{duration(cost.seconds)} ({cost.how})" if cost.seconds is not None else f"unknown: {cost.how}"
    tokens = cost.tokens if asset.pending else cost.last.tokens if cost.last else None
    return {
        "asset": asset.name,
        "state": asset.state.replace("_", " "),
        "why": asset.why,
        "took last": took,
        "will take": takes if asset.pending else "",
        "tokens": amount(tokens) if tokens else "",
    }
