"""The promoted policy."""

import dagster as dg

from pipeline.lib.factories import OWNERS
from pipeline.lib.promoting import promoted_policy
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the asset that moves the pointer."""
    return dg.Definitions(assets=[promoted_policy(current(), OWNERS)])
