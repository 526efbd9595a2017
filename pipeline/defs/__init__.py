"""Everything Dagster shows: the assets, their checks, automation and sensors."""
