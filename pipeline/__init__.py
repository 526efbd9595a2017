"""The Dagster project: it wires the stages of `drirl_core` and holds no algorithm of its own."""
