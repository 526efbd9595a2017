"""Completions from a policy: seeded per row, batched by length, stored per row.

Each row has its own stream of random numbers, seeded by its content. So a completion does not depend on the other
prompts in its batch, and after changing ten prompts only ten are sampled.
"""

from drirl_core.models.packages import vllm_problems
from drirl_core.models.sampling.decode import Completion, SamplingSettings, exact_cpu_sampling, reader_of_completions
from drirl_core.models.sampling.rows import kept_policy, open_policy, sample
from drirl_core.models.sampling.vllm_engine import close_engine
from drirl_core.models.templates import chat_text

__all__ = [
    "Completion", "SamplingSettings", "chat_text", "close_engine", "exact_cpu_sampling", "kept_policy", "open_policy",
    "reader_of_completions", "sample", "vllm_problems",
]  # fmt: skip
