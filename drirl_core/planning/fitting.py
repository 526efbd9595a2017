"""Which settings make a stage fit: computed by planning it again with each of them changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from drirl_core.config import Config
from drirl_core.errors import ConfigError

RANK = 16
"""Rank of the adapters that are proposed in place of full fine-tuning: the default of `lora.rank`."""
_LEAST = {"max_new_tokens": 16, "max_length": 64}
"""Values below which a setting is not lowered: nothing of use would be left."""


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a configuration with other values of some settings.

    Args:
        config: the configuration.
        changes: values by dotted name.

    Raises:
        ConfigError: the values contradict each other or other settings.
    """
    for name, value in changes.items():
        config = _replaced(config, name.split("."), value)
    return config


def _replaced(section: Any, names: list[str], value: Any) -> Any:
    name, *rest = names
    return replace(section, **{name: _replaced(getattr(section, name), rest, value) if rest else value})


def _value(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def smaller_values(config: Config, setting: str) -> list[Any]:
    """Return the values that a setting may take instead, the least change first.

    Args:
        config: the configuration.
        setting: dotted name.
    """
    now, name = _value(config, setting), setting.rpartition(".")[2]
    if name == "micro_batch":
        batch = config.policy.prompts_per_step * config.policy.num_generations
        return [size for size in range(batch - 1, 0, -1) if batch % size == 0 and size < (now or batch)]
    if name == "rank":
        return [] if now else [RANK]
    if name == "backbone":
        return ["embedding"]
    if name == "quantization":
        return ["4bit"] if now == "none" else []
    if name == "validation_prompts":
        return [0] if now else []
    least = _LEAST.get(name, 1)
    values = {now * part // 16 for part in range(15, 0, -1)} | {now >> power for power in range(1, now.bit_length())}
    step = 2 if name == "batch_size" else 8 if name in _LEAST else 1
    rounded = {max(least, value // step * step) for value in values} | {least}
    return sorted((value for value in rounded if value < now), reverse=True)


def changes_that_fit(config: Config, settings: Iterable[str], fits: Callable[[Config], bool]) -> dict[str, Any] | None:
    """Find changes with which a stage fits, of as few of the first settings as possible, each as small as possible.

    Args:
        config: the configuration, with which it does not fit.
        settings: dotted names, those that change least of the result first.
        fits: says whether it fits with a configuration.

    Returns:
        Value by dotted name; None where no values make it fit.
    """

    def works(changes: Mapping[str, Any]) -> bool:
        try:
            return fits(with_changes(config, changes))
        except ConfigError:  # these values exclude each other, or another setting
            return False

    options = {name: values for name in settings if (values := smaller_values(config, name))}
    least: dict[str, Any] = {}
    for name, values in options.items():
        least[name] = values[-1]
        if works(least):
            return _relaxed(least, options, works)
    return None


def _relaxed(
    changes: dict[str, Any], options: Mapping[str, list[Any]], works: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any]:
    """Undo what is not needed, the last setting first: leave it out, or give it the value that changes least."""
    for name in reversed(list(changes)):
        fewer = {other: value for other, value in changes.items() if other != name}
        if fewer and works(fewer):
            changes = fewer
        else:
            changes[name] = next(value for value in options[name] if works({**changes, name: value}))
    return changes
