"""What an artifact must promise; asked by the Dagster checks and by a run in plain Python alike."""
