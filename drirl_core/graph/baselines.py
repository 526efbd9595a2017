"""The records of the baselines: stages that exist where `baselines` names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from drirl_core.config import BEST_OF_N
from drirl_core.graph.columns import meanings
from drirl_core.graph.reads import (
    BESIDE_POLICY,
    BESIDE_WEIGHTS,
    COST_OF_GRPO,
    COST_OF_REWARDS,
    INITIAL_POLICY,
    LEFT_OUT,
    OF_GRPO,
    OF_REWARDS,
    SAMPLER,
    for_grpo,
    of_backbone,
)
from drirl_core.graph.record import Cost, MainTable, Stage
from drirl_core.graph.rounds import BESIDE_REWARDS, ROUND_POOLS

if TYPE_CHECKING:
    from drirl_core.config import Config


def _compared(baseline: str) -> Callable[[Config], bool]:
    return lambda config: baseline in config.baselines


_OF_DPO = (
    "dpo",
    "completions.prompts",
    "completions.helpful_prompts",
    *INITIAL_POLICY,
    LEFT_OUT,
    "seed",
)
_OF_IRFT = (
    "irft",
    "dpo.learning_rate",
    "dpo.batch_size",
    "dpo.max_length",
    "dpo.lora",
    "dpo.seed",
    "dpo.trl",
    "completions.max_new_tokens",
    "completions.temperature",
    "completions.batch_size",
    SAMPLER,
    "policy.start",
    "sft.harmless_target",
    *INITIAL_POLICY,
    LEFT_OUT,
    "seed",
)
_COST_OF_PAIRS = ("dpo.batch_size", "dpo.max_length", "dpo.lora.rank", "dpo.lora.first_layer", "dpo.trl")
_GRPO_ALONE = ("policy.loss", "policy.scale_rewards", "policy.trl")
"""Settings that RLOO does not have."""
_RLOO_ALONE = ("policy.rloo_trl",)
"""Settings that GRPO does not have."""
_FOR_DPO = ("dataset", "completion_pool", "sft_checkpoint")


def _dpo_baseline(name: str, description: str, *more: str) -> Stage:
    """Return the record of a baseline that learns from preference pairs, with the inputs that it needs beside them."""
    return Stage(
        f"drirl_core.policy.dpo:build_{name}_checkpoint",
        "2",
        _OF_DPO,
        "policy",
        heavy=True,
        volatile=BESIDE_WEIGHTS,
        inputs=(*_FOR_DPO, *more),
        description=f"Baseline, if `baselines` has {name}: {description}",
        when=_compared(name),
        cost=Cost(("dpo.epochs",), (*_COST_OF_PAIRS, "dpo.validation_prompts")),
        checks="drirl_core.checks.training:BASELINE",
        batch="drirl_core.policy.shares:batch_of_pairs",
    )


def _grpo_baseline(name: str, description: str, *unread: str, rewards: str = "reward_model") -> Stage:
    """Return the record of a baseline that is GRPO or RLOO with settings of its own in place of the unread ones."""
    return Stage(
        f"drirl_core.policy.baselines:build_{name}_checkpoint",
        "1",
        OF_GRPO,
        "policy",
        heavy=True,
        volatile=BESIDE_WEIGHTS,
        unread=(*BESIDE_POLICY, *unread),
        # Those with a reward of their own need no other, and start where no other reward has led.
        inputs=for_grpo(rewards, "sft_checkpoint")
        if "policy.reward" in unread
        else (*for_grpo(rewards), "rewards of propositions"),
        description=description,
        when=_compared(name),
        cost=COST_OF_GRPO,
        checks="drirl_core.checks.training:BASELINE",
        batch="drirl_core.policy.shares:batch_of_rollouts",
    )


BASELINE_STAGES: dict[str, Stage] = {
    "dpo_checkpoint": _dpo_baseline("dpo", "preference optimisation on pairs of the completion pools."),
    "dpo_s_checkpoint": _dpo_baseline("dpo_s", "the same on pairs drawn in proportion to alpha.", "hardness"),
    "irft_checkpoint": Stage(
        "drirl_core.policy.irft:build_irft_checkpoint",
        "1",
        _OF_IRFT,
        "policy",
        heavy=True,
        volatile=BESIDE_WEIGHTS,
        inputs=("dataset", "sft_checkpoint"),
        description="Baseline, if `baselines` has irft: demonstrations over own completions, in rounds.",
        when=_compared("irft"),
        cost=Cost(
            ("irft.rounds",),
            (
                "irft.prompts",
                "irft.samples",
                "irft.negatives",
                "irft.epochs",
                "completions.max_new_tokens",
                SAMPLER,
                *_COST_OF_PAIRS,
            ),
        ),
        checks="drirl_core.checks.training:BASELINE",
    ),
    "joint_reward_model": Stage(
        "drirl_core.rewards.stage:build_joint_reward_model",
        "1",
        OF_REWARDS,
        "rewards",
        heavy=True,
        unread=BESIDE_REWARDS,
        inputs=("dataset", "completion_pool", *ROUND_POOLS, "reward_labels"),
        description="One reward model for all categories, if `baselines` has joint.",
        when=_compared("joint"),
        config_when=of_backbone,
        cost=COST_OF_REWARDS,
    ),
    "joint_checkpoint": _grpo_baseline(
        "joint",
        "Baseline, if `baselines` has joint: GRPO with one reward model for all categories, alpha = 1.",
        "hardness.combine",
        "policy.reward",
        *_RLOO_ALONE,
        rewards="joint_reward_model",
    ),
    "grpo_checkpoint": _grpo_baseline(
        "grpo",
        "Baseline, if `baselines` has grpo: GRPO with the same rewards, every prompt with weight 1.",
        "hardness.combine",
        *_RLOO_ALONE,
    ),
    "staged_competence_checkpoint": _grpo_baseline(
        "staged_competence",
        "Baseline, if `baselines` has staged_competence: GRPO on prompts in the order of their hardness, alpha = 1.",
        "hardness.combine",
        "policy.order",
        "policy.renew_reference",
        *_RLOO_ALONE,
    ),
    "rloo_checkpoint": _grpo_baseline(
        "rloo",
        "Baseline, if `baselines` has rloo: RLOO with the same rewards, every prompt with weight 1.",
        "hardness.combine",
        *_GRPO_ALONE,
    ),
    "rloo_s_checkpoint": _grpo_baseline(
        "rloo_s", "Baseline, if `baselines` has rloo_s: RLOO with dynamic reward scaling.", *_GRPO_ALONE
    ),
    "verifiable_checkpoint": _grpo_baseline(
        "verifiable",
        "Control, if `baselines` has verifiable: GRPO rewarded by the rules judge, 1 for a right reply.",
        "hardness.combine",
        "policy.reward",
        *_RLOO_ALONE,
    ),
    "propositions_checkpoint": _grpo_baseline(
        "propositions",
        "Control, if `baselines` has propositions: GRPO rewarded by readable propositions of a reply, alpha = 1.",
        "hardness.combine",
        "policy.reward",
        *_RLOO_ALONE,
        rewards="proposition_reward",
    ),
}
"""By name, in topological order; they need the stages up to the policy."""

_OF_SAMPLES = ("benchmarks.max_new_tokens", "benchmarks.batch_size", SAMPLER)
"""What decides samples of a suite beside the policy that writes them, and what they cost."""

BEST_OF_N_STAGES: dict[str, Stage] = {
    BEST_OF_N: Stage(
        "drirl_core.benchmarks.best_of_n:build_best_of_n",
        "1",
        (
            "benchmarks.best_of",
            "benchmarks.suites",
            *_OF_SAMPLES,
            "completions.temperature",
            "models.encoder",
            *INITIAL_POLICY,
            "seed",
        ),
        "benchmarks",
        heavy=True,
        per="suite",
        inputs=("prompt_pool", "sft_checkpoint", "reward_model", "reference_classifiers", "own suite"),
        description="Baseline, if `baselines` has best_of_n: samples of the SFT start on the suite {member}, of which "
        "the reward models choose one per prompt.",
        when=_compared(BEST_OF_N),
        table=MainTable(
            "completions.parquet",
            {
                **meanings("group", "category", "prompt_id", "sample", "completion", "tokens", "finished"),
                "reward": "expected reward: of the likeliest category and of harmless prompts, by how unsafe the "
                "prompt is",
                "chosen": "whether it is the best of its prompt, which the benchmark judges",
            },
        ),
        cost=Cost(("benchmarks.best_of",), ("benchmarks.suites[{member}]", *_OF_SAMPLES), tokens=True),
    )
}
"""The baseline without weights of its own, by name; it needs the reference classifiers too."""
