"""Sensors beside automation: the drop folder, and alerts on failed runs and failed gates."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.alerts import Hook
from pipeline.wiring.failures import failure_sensor
from pipeline.wiring.gate_watch import gate_sensor
from pipeline.wiring.ingest import inbox_sensor

HOOKS: tuple[Hook, ...] = ()
"""Functions of your own that are given every alert, besides the hooks of the configuration."""


@dg.definitions
def defs() -> dg.Definitions:
    """Make the sensors; without a drop folder there is none for it."""
    project = current()
    config = project.config
    ingest = [inbox_sensor(project, HOOKS)] if config.operations.inbox.folder else []
    return dg.Definitions(sensors=[failure_sensor(config, HOOKS), gate_sensor(config, HOOKS), *ingest])
