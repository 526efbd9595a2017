"""Old addresses that `dagster.yaml` of existing homes names; kept for one version."""
