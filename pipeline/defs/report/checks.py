"""The gates that a candidate passes before it is promoted."""

import dagster as dg

from drirl_core.promotion import CANDIDATE
from pipeline.lib.checks import stage_checks
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of this group."""
    return dg.Definitions(asset_checks=[stage_checks(CANDIDATE, current())])
