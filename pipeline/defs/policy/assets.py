"""The supervised start and the aligned policy."""

import dagster as dg

from pipeline.lib.factories import group_definitions
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets of this group."""
    return group_definitions("policy", current())
