"""Checks of the trained policies."""

import dagster as dg

from drirl_core.graph.build import STAGES, build_graph
from pipeline.instance.settings import current
from pipeline.wiring.asset_checks import stage_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    graph = build_graph(current())
    stages = dict.fromkeys(node.stage for node in graph.nodes.values() if STAGES[node.stage].group == "policy")
    return dg.Definitions(asset_checks=[stage_checks(stage, current()) for stage in stages])
