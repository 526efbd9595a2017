"""Benchmark suites."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import group_definitions


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets of this group."""
    return group_definitions("benchmarks", current())
