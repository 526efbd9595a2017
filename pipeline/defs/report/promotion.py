"""The promoted policy."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import OWNERS
from pipeline.wiring.promoting import promoted_policy


@dg.definitions
def defs() -> dg.Definitions:
    """Make the asset that moves the pointer."""
    return dg.Definitions(assets=[promoted_policy(current(), OWNERS)])
