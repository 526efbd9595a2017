"""Checks that the sources are looked at."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.freshness import source_checks


@dg.definitions
def defs() -> dg.Definitions:
    """Make the checks of all sources."""
    return dg.Definitions(asset_checks=[source_checks(current())])
