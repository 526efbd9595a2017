"""The Dagster project: it connects the stages of `drirl_core` to Dagster and contains no algorithm."""
