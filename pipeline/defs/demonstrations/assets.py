"""Balanced data sets with demonstrations, and the report on their balance."""

import dagster as dg

from pipeline.lib.factories import group_definitions
from pipeline.lib.settings import current


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets of this group."""
    return group_definitions("demonstrations", current())
