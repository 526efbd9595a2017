"""Checks of the reward models."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.asset_checks import stage_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    return dg.Definitions(asset_checks=[stage_checks("reward_model", current())])
