"""Completion pools: what the reference policies say to the prompts of a category."""
