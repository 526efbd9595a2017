"""The plan as an asset."""

import dagster as dg

from pipeline.lib.factories import OWNERS
from pipeline.lib.panel import plan_panel
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets of this group."""
    return dg.Definitions(assets=[plan_panel(current(), OWNERS)])
