"""The plan as an asset."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import OWNERS
from pipeline.wiring.panel import plan_panel


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets of this group."""
    return dg.Definitions(assets=[plan_panel(current(), OWNERS)])
