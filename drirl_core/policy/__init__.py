"""Policies: the supervised start and GRPO with dynamic reward scaling."""
