"""Every asset: the graph of the configuration, the retraining plan, and the promoted policy."""

import dagster as dg

from pipeline.instance.settings import current
from pipeline.wiring.factories import OWNERS, graph_assets
from pipeline.wiring.panel import plan_panel
from pipeline.wiring.promoting import promoted_policy


@dg.definitions
def defs() -> dg.Definitions:
    """Make the assets."""
    project = current()
    return dg.Definitions(
        assets=[*graph_assets(project), plan_panel(project, OWNERS), promoted_policy(project, OWNERS)]
    )
