"""The asset graph: a record per stage, the layout, what is stale, why and at what cost, and what builds it."""
