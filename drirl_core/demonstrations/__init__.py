"""Demonstrations: Chain-of-Draft format, who writes them, validation, balanced data sets."""
