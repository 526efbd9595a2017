"""What the assets must promise: the checks of each stage, the gates of a candidate, and that sources are observed."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import graph_checks
from pipeline.wiring.freshness import source_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks."""
    project = current()
    return dg.Definitions(asset_checks=[*graph_checks(project), source_checks(project)])
