"""What the assets must promise: the checks of each stage, and the gates of a candidate."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import graph_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks."""
    return dg.Definitions(asset_checks=graph_checks(current()))
