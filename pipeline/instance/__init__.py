"""The Dagster instance and the configuration that this code location uses."""
