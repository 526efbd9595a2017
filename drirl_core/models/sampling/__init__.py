"""Completions from a policy: seeded per row, batched by length, stored per row.

Each row has its own stream of random numbers, seeded by its content. So a completion does not depend on the other
prompts in its batch, and after changing ten prompts only ten are sampled.
"""

from drirl_core.models.sampling.decode import Completion, SamplingSettings, chat_text, exact_cpu_sampling
from drirl_core.models.sampling.rows import sample

__all__ = ["Completion", "SamplingSettings", "chat_text", "exact_cpu_sampling", "sample"]
