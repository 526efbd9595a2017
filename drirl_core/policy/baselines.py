"""Baselines that are GRPO with one thing changed: an asset each, on the data and budget of DR-IRL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drirl_core.config.staging import STAGES
from drirl_core.graph import build as stages
from drirl_core.policy.grpo import align


def build_grpo_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with the same rewards, and alpha = 1 for every prompt; see `build_policy_checkpoint`."""
    return align(_unscaled(context), "grpo")


def build_verifiable_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with the verifiable reward, and alpha = 1 for every prompt; see `build_policy_checkpoint`.

    A learned reward must beat this control: it needs a label for each prompt and the judge, and no demonstration.
    """
    return align(_unscaled(context, reward="verifiable"), "verifiable")


def build_propositions_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with the reward over propositions, and alpha = 1; see `build_policy_checkpoint`.

    A learned reward must beat this control, whose rewards anyone can read.

    Args:
        context: `proposition_reward` is among the inputs in place of the reward models of the categories.
    """
    return align(_unscaled(context, reward="propositions"), "propositions")


def build_joint_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with one reward model for all categories, and alpha = 1; see `build_policy_checkpoint`.

    Args:
        context: `joint_reward_model` is among the inputs in place of the reward models of the categories.
    """
    return align(_unscaled(context, reward="learned"), "joint")


def build_staged_competence_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy with difficulty as the order of the prompts, a reference renewed at every stage, and alpha = 1.

    The counterpart of DR-IRL, where difficulty is a weight. It has the stages of `policy.stages`, or four where the
    policy itself has none; see `build_policy_checkpoint`.

    Raises:
        DataError: a prompt has no hardness, or a category fewer prompts than there are stages.
    """
    parts = context.config.policy.stages
    staged = {"order": "hardness", "renew_reference": True, "stages": parts if parts > 1 else STAGES}
    return align(_unscaled(context, **staged), "staged_competence")


def build_rloo_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy by RLOO with the same rewards, and alpha = 1 for every prompt; see `build_policy_checkpoint`."""
    return align(_unscaled(context), "rloo", "RLOO")


def build_rloo_s_checkpoint(context: stages.Context) -> dict[str, Any]:
    """Align the policy by RLOO whose advantages are scaled by alpha; see `build_policy_checkpoint`."""
    return align(context, "rloo_s", "RLOO")


def _unscaled(context: stages.Context, **policy: Any) -> stages.Context:
    """Return the context of a policy with alpha = 1 for every prompt, and with changed settings of the policy."""
    config = context.config
    changed = replace(
        config, hardness=replace(config.hardness, combine="none"), policy=replace(config.policy, **policy)
    )
    return replace(context, config=changed)
