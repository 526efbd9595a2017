"""Optional packages that a configuration needs: one place that asks for all of them, without importing any."""

from __future__ import annotations

from collections.abc import Iterator

from drirl_core.config import Config
from drirl_core.models.packages import quantization_problems, vllm_problems
from drirl_core.policy.options import tracker_problems


def package_problems(config: Config) -> Iterator[str]:
    """Say which optional packages of a run are missing or too old: of weights, sampler and trackers.

    The packages of executor, object store and history are asked for when a command opens these, which is first.

    Args:
        config: the complete configuration.
    """
    yield from quantization_problems(config.models.quantization)
    yield from vllm_problems(config.execution)
    yield from tracker_problems(config)
