"""Hardness coefficients: data hardness, model responsiveness and alpha."""
