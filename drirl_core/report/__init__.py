"""What a run found, for people: one HTML page, a model card, charts."""
