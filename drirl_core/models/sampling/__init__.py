"""Completions from a policy: seeded per row, batched by length, stored per row.

Each row draws its random numbers from a stream of its own, seeded by its content, so that a completion does not
depend on which other prompts share its batch, and changing ten prompts samples ten prompts.
"""

from drirl_core.models.sampling.decode import Completion, SamplingSettings, chat_text, exact_cpu_sampling
from drirl_core.models.sampling.rows import sample

__all__ = ["Completion", "SamplingSettings", "chat_text", "exact_cpu_sampling", "sample"]
