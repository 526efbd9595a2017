"""Checks of the trained policies."""

import dagster as dg

from drirl_core.graph.stages import STAGES
from pipeline.instance.settings import current
from pipeline.wiring.asset_checks import stage_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    stages = [stage for stage in current().graph.stages if STAGES[stage].group == "policy"]
    return dg.Definitions(asset_checks=[stage_checks(stage, current()) for stage in stages])
