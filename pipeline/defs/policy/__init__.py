"""The supervised start and the aligned policy."""
