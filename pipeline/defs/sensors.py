"""Sensors beside automation: the drop folder, and alerts on failed runs and failed gates."""

import dagster as dg

from pipeline.lib.alerts import Hook
from pipeline.lib.failures import failure_sensor
from pipeline.lib.gate_watch import gate_sensor
from pipeline.lib.ingest import inbox_sensor
from pipeline.lib.settings import current

HOOKS: tuple[Hook, ...] = ()
"""Functions of your own that are given every alert, besides the hooks of the configuration."""


@dg.definitions
def defs() -> dg.Definitions:
    """Make the sensors; without a drop folder there is none for it."""
    config = current()
    ingest = [inbox_sensor(config, HOOKS)] if config.operations.inbox.folder else []
    return dg.Definitions(sensors=[failure_sensor(config, HOOKS), gate_sensor(config, HOOKS), *ingest])
