"""Checks of the prompt pool."""

import dagster as dg

from pipeline.lib.checks import stage_checks
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    return dg.Definitions(asset_checks=[stage_checks("prompt_pool", current())])
