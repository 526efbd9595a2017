"""Hardness coefficients, one table a category."""
