"""The rules an artifact must keep; used by the Dagster checks and by a run in plain Python."""
