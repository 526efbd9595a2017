"""Dagster assets, checks, conditions and displays made from the stages of `drirl_core`."""
