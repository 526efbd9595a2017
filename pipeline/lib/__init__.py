"""Old module paths that the `dagster.yaml` of existing homes names; kept for one version."""
