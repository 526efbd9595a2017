"""The results of a run for readers: one HTML page, a model card, charts."""
