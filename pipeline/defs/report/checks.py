"""The gates that a candidate passes before it is promoted."""

import dagster as dg

from drirl_core.promotion import CANDIDATE
from pipeline.instance.settings import current
from pipeline.wiring.asset_checks import stage_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    return dg.Definitions(asset_checks=[stage_checks(CANDIDATE, current())])
