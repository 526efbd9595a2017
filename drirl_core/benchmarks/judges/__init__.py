"""Judges: what kind of reply a completion is."""
