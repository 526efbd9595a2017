"""Policies: the supervised start, GRPO with dynamic reward scaling, and the baselines that are trained."""
