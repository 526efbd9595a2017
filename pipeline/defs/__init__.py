"""Everything Dagster shows: one folder a group of assets, and the automation over all of them."""
