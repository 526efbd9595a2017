"""Balanced data sets with demonstrations, and the report on their balance."""
