"""Completions of the reference policies, one pool a category."""
