"""Utility: what a model can do beside refusing, by lm-evaluation-harness on the user's own copies of its data."""
