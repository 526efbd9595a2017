"""The records of further rounds: stages that exist where `rewards.rounds` is above 1.

Round t learns rewards on the pools of all rounds so far, trains a policy on them and samples it into a pool of its own.
The last round is `reward_model` and `policy_checkpoint`, so that a graph of one round has none of these stages, and one
more round leaves the earlier rounds unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from drirl_core.config import MOST_ROUNDS
from drirl_core.graph.columns import meanings
from drirl_core.graph.reads import (
    BESIDE_POLICY,
    BESIDE_WEIGHTS,
    COST_OF_GRPO,
    COST_OF_REWARDS,
    HOW_LOADED,
    IN_STAGES,
    OF_POLICY,
    OF_REWARDS,
    SAMPLER,
    of_backbone,
)
from drirl_core.graph.record import Cost, MainTable, Stage

if TYPE_CHECKING:
    from drirl_core.config import Config

NUMBERS = range(1, MOST_ROUNDS)
"""Numbers of the rounds that another one can follow."""
BESIDE_REWARDS = ("rewards.labels", "rewards.rounds", "rewards.round_samples", "rewards.round_start")
"""Settings of rewards that decide none by themselves: labels count by their rows, and rounds by their pools."""
_OF_POOL = (
    "rewards.round_samples",
    "completions.prompts",
    "completions.helpful_prompts",
    "completions.max_new_tokens",
    "completions.temperature",
    "completions.batch_size",
    *HOW_LOADED,
    SAMPLER,
    "seed",
)


def rewards_of(number: int) -> str:
    """Return the stage of the reward models of a round."""
    return f"round_{number}_reward_model"


def policy_of(number: int) -> str:
    """Return the stage, and the asset, of the policy of a round."""
    return f"round_{number}_policy"


def pool_of(number: int) -> str:
    """Return the stage of the completion pools of a round."""
    return f"round_{number}_completion_pool"


def number_of(asset: str) -> int:
    """Return the round of an asset or stage.

    Args:
        asset: its name, such as `round_2_policy`.

    Raises:
        ValueError: it belongs to no round.
    """
    first, _, rest = asset.partition("_")
    number = rest.partition("_")[0]
    if first != "round" or not number.isdigit() or int(number) not in NUMBERS:
        raise ValueError(
            f"{asset!r} is no asset of a round; those are called round_1_... to round_{MOST_ROUNDS - 1}_..."
        )
    return int(number)


ROUND_REWARDS = tuple(map(rewards_of, NUMBERS))
ROUND_POLICIES = tuple(map(policy_of, NUMBERS))
ROUND_POOLS = tuple(map(pool_of, NUMBERS))


def _after(number: int) -> Callable[[Config], bool]:
    """Return a condition: whether a configuration has another round after this one."""
    return lambda config: config.rewards.rounds > number


def _stages(number: int) -> dict[str, Stage]:
    """Return the records of a round and of what the next one learns from."""
    when = _after(number)
    return {
        rewards_of(number): Stage(
            "drirl_core.rewards.stage:build_reward_model",
            "1",
            OF_REWARDS,
            "rewards",
            heavy=True,
            unread=BESIDE_REWARDS,
            per="category",
            inputs=("dataset", "completion_pool", *map(pool_of, range(1, number)), "reward_labels"),
            description=f"Reward model of {{member}} in round {number}, if `rewards.rounds` is above {number}.",
            when=when,
            table=MainTable(
                "rewards.parquet",
                {
                    **meanings("prompt_id", "split"),
                    "policy": "who wrote the completion: demonstration, base, sft, an earlier round (round_1), or the "
                    "kind of contrast",
                    **meanings("sample", "reward"),
                },
            ),
            config_when=of_backbone,
            cost=replace(COST_OF_REWARDS, like="reward_model"),
            checks="drirl_core.checks.training:REWARD_MODEL",
        ),
        policy_of(number): Stage(
            "drirl_core.policy.rounds:build_round_policy",
            "1",
            OF_POLICY,
            "policy",
            heavy=True,
            batch="drirl_core.policy.shares:batch_of_rollouts",
            volatile=BESIDE_WEIGHTS,
            unread=(*BESIDE_POLICY, *IN_STAGES, "policy.rloo_trl"),
            inputs=("dataset", rewards_of(number), start_of(number)),
            description=f"The policy that the rewards of round {number} lead to, by GRPO with alpha = 1.",
            when=when,
            cost=replace(
                COST_OF_GRPO,
                decisive=tuple(name for name in COST_OF_GRPO.decisive if name.startswith("policy.")),
                like="policy_checkpoint",
            ),
            checks="drirl_core.checks.training:BASELINE",
        ),
        pool_of(number): Stage(
            "drirl_core.policy.rounds:build_round_pool",
            "1",
            _OF_POOL,
            "completions",
            heavy=True,
            per="category",
            inputs=("dataset", policy_of(number), rewards_of(number)),
            description=f"Completions of the {{member}} prompts by the policy of round {number}.",
            when=when,
            table=MainTable(
                "completions.parquet",
                {
                    **meanings("prompt_id"),
                    "policy": f"round_{number}",
                    **meanings("sample", "completion", "answer", "tokens", "finished"),
                },
            ),
            config_when=of_backbone,
            cost=Cost(
                ("rewards.round_samples",),
                ("completions.max_new_tokens", "completions.batch_size", SAMPLER),
                tokens=True,
                prompts=True,
                most_prompts="drirl_core.completions.choice:most_completed",
                like="completion_pool",
                like_settings={"rewards.round_samples": "completions.samples"},
            ),
        ),
    }


def start_of(number: int) -> str:
    """Return what the record of a round's policy calls its start; the final policy's is called `start`."""
    return f"start of round {number}"


ROUND_STAGES: dict[str, Stage] = {name: stage for number in NUMBERS for name, stage in _stages(number).items()}
"""By name, in topological order; they need the stages up to the completion pools."""
