"""Baselines that are GRPO with one thing changed: an asset each, on the data and budget of DR-IRL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drirl_core.graph import build as stages
from drirl_core.policy.grpo import align


def build_grpo_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with the same rewards, and alpha = 1 for every prompt; see `build_policy_checkpoint`."""
    hardness = replace(context.config.hardness, combine="none")
    return align(replace(context, config=replace(context.config, hardness=hardness)), "grpo")


def build_verifiable_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with the verifiable reward, and alpha = 1 for every prompt; see `build_policy_checkpoint`.

    A learned reward must beat this control: it needs a label for each prompt and the judge, and no demonstration.
    """
    config = context.config
    changed = replace(
        config, hardness=replace(config.hardness, combine="none"), policy=replace(config.policy, reward="verifiable")
    )
    return align(replace(context, config=changed), "verifiable")


def build_joint_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with one reward model for all categories, and alpha = 1; see `build_policy_checkpoint`.

    Args:
        context: `joint_reward_model` is among the inputs in place of the reward models of the categories.
    """
    config = context.config
    changed = replace(
        config, hardness=replace(config.hardness, combine="none"), policy=replace(config.policy, reward="learned")
    )
    return align(replace(context, config=changed), "joint")


def build_rloo_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy by RLOO with the same rewards, and alpha = 1 for every prompt; see `build_policy_checkpoint`."""
    hardness = replace(context.config.hardness, combine="none")
    return align(replace(context, config=replace(context.config, hardness=hardness)), "rloo", "RLOO")


def build_rloo_s_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy by RLOO whose advantages are scaled by alpha; see `build_policy_checkpoint`."""
    return align(context, "rloo_s", "RLOO")
