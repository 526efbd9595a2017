"""Checks of a training in stages that span several sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drirl_core.config.reading import require

if TYPE_CHECKING:
    from drirl_core.config import Config

NAME = "staged_competence"
"""Name of the baseline whose prompts come in the order of their hardness, with a reference renewed at every stage."""
STAGES = 4
"""Stages of that baseline where `policy.stages` says none."""


def check_stages(config: Config) -> None:
    """Refuse an order by hardness that not every prompt has, and a baseline in stages without steps or reference.

    Raises:
        ConfigError: the settings contradict each other.
    """
    policy, baseline = config.policy, NAME in config.baselines
    ordered = ["policy.order is 'hardness'"] * (policy.order == "hardness") + [f"baselines has {NAME}"] * baseline
    require(
        not ordered or not config.completions.prompts,
        f"{' and '.join(ordered)}, which needs the hardness of every training prompt, but completions.prompts is "
        f"{config.completions.prompts}, and a prompt without completions has none; set completions.prompts to 0",
    )
    if baseline:
        require(
            policy.kl > 0,
            f"baselines has {NAME}, which renews the reference, but policy.kl is 0 and there is none; set policy.kl to "
            f"a weight, such as 0.02, or take {NAME} out",
        )
        require(
            policy.steps >= STAGES,
            f"baselines has {NAME}, which trains in {STAGES} stages of at least a step, but policy.steps is "
            f"{policy.steps}; raise policy.steps to {STAGES} or more, or take {NAME} out",
        )
