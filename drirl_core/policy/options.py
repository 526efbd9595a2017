"""Options of TRL and trackers of training runs: what cannot be used is said before any model loads.

Reading this module imports nothing heavy. To check options, TRL's own dataclasses are made by the functions that make
them for training, with stand-ins for the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from drirl_core.config import Config
from drirl_core.errors import ConfigError
from drirl_core.graph.processes import sharding_problems
from drirl_core.models.packages import is_installed
from drirl_core.policy.shares import unshared

_ALL_WEIGHTS: Mapping[str, str] = {
    "use_vllm": "copies all weights to an engine",
    "use_transformers_continuous_batching": "lets each process run the policy as often as its own rows need",
    "use_transformers_paged": "lets each process run the policy as often as its own rows need",
    "precompute_ref_log_probs": "hashes all weights",
    "fsdp": "divides the weights by other means",
    "deepspeed": "divides the weights by other means",
}
"""Options of TRL that need all weights in one process (TRL 1.16)."""
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}
"""Packages of which a tracker needs one, where they are not its name."""


def options_in(config: Config) -> dict[str, Mapping[str, Any]]:
    """Return the user's options of TRL that are not empty, by dotted name of the setting."""
    return {section: options for section, options in _every(config).items() if options}


def _every(config: Config) -> dict[str, Mapping[str, Any]]:
    return {
        "sft.trl": config.sft.trl,
        "dpo.trl": config.dpo.trl,
        "policy.trl": config.policy.trl,
        "policy.rloo_trl": config.policy.rloo_trl,
    }


def require_options(config: Config, section: str) -> None:
    """Refuse a training whose options or trackers cannot be used.

    Args:
        config: the complete configuration.
        section: dotted name of the options that the training reads.

    Raises:
        ConfigError: an option is unknown, ours or of the wrong type, TRL refuses it, several processes cannot share it,
            or a tracker is not installed.
    """
    for problem in _problems(config, {section}):
        raise ConfigError(problem)


def option_problems(config: Config) -> Iterator[str]:
    """Say what is wrong with all options and trackers, used or not.

    Args:
        config: the complete configuration.
    """
    yield from sharding_problems(config)
    yield from _problems(config, _every(config))


def tracker_problems(config: Config) -> Iterator[str]:
    """Say which trackers are not installed; nothing is imported.

    Args:
        config: the complete configuration.
    """
    for tracker in config.execution.report_to:
        if not any(map(is_installed, _MODULES.get(tracker, (tracker,)))):
            yield (
                f"execution.report_to names {tracker}, whose package is not installed here; install it with "
                f"`pip install 'drirl[{tracker}]'`, or take {tracker} out"
            )


def _problems(config: Config, sections: Collection[str]) -> Iterator[str]:
    yield from tracker_problems(config)
    every = _every(config)
    yield from unshared(config, {section: every[section] for section in sections})
    yield from _undivided(config, {section: every[section] for section in sections})
    given = [section for section in sections if section in options_in(config)]
    if not given:
        return
    yield from _rollout_problems(config, {section: every[section] for section in given})
    made = _makers(config)
    for section in given:
        try:
            made[section]()
        except ConfigError as error:
            yield str(error)


def _undivided(config: Config, sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say which options do not work beside weights that processes hold in parts."""
    if config.execution.sharding == "none":
        return
    for section, options in sections.items():
        for name in _ALL_WEIGHTS.keys() & {name for name, value in options.items() if value}:
            yield (
                f"{section}.{name} {_ALL_WEIGHTS[name]}, and execution.sharding is {config.execution.sharding!r}; "
                "take one of the two out"
            )


def _rollout_problems(config: Config, given: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say why TRL cannot let vLLM sample the policy that it trains.

    The new weights have to reach the engine after each step. TRL sends them to a server by NCCL, and writes them into
    an engine in the same process one by one, where vLLM for a CPU has packed them into another form and dropped the
    tensors (TRL 1.16, vLLM 0.29).
    """
    for section in [section for section, options in given.items() if options.get("use_vllm")]:
        from drirl_core.models.loading import device_of

        if device_of(config.models).type != "cuda":
            yield (
                f"{section}.use_vllm is true, but the policy trains on a CPU, where TRL cannot give vLLM the weights "
                "of each step; take it out (execution.sampler: vllm samples everything else), or train on a GPU"
            )
        elif not is_installed("vllm"):
            yield (
                f"{section}.use_vllm is true, but vllm is not installed in this environment, and TRL runs it or its "
                f"client here; install it with `pip install 'drirl[vllm]'`, or take {section}.use_vllm out"
            )


def _makers(config: Config) -> dict[str, Callable[[], Any]]:
    """Return what makes the arguments of each section."""
    from drirl_core.models.loading import device_of
    from drirl_core.policy.dpo import dpo_arguments
    from drirl_core.policy.grpo import grpo_arguments, rloo_arguments
    from drirl_core.policy.sft import sft_arguments
    from drirl_core.policy.tracking import Tracking
    from drirl_core.policy.training import common_arguments

    common = common_arguments(config.seed, Path("scratch"), device_of(config.models).type, Tracking())
    return {
        "sft.trl": lambda: sft_arguments(config.sft, 1, config.sft.max_length, common),
        "dpo.trl": lambda: dpo_arguments(config.dpo, 1, config.dpo.max_length, common),
        "policy.trl": lambda: grpo_arguments(config.policy, common),
        "policy.rloo_trl": lambda: rloo_arguments(config.policy, common),
    }
