"""Completion pools: completions of the reference policies for the prompts of a category."""
