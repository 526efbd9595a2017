"""What several stages read, and what decides their cost; each named once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drirl_core.graph.record import Cost

if TYPE_CHECKING:
    from drirl_core.config import Config

BESIDE_WEIGHTS = frozenset(
    {"times.jsonl", "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
)
"""Files of a checkpoint that do not decide its version: what it cost, a README that names the run, and the adapter,
which the merged weights hold already."""

BESIDE_POLICY = ("policy.save_steps", "policy.own_rewards.folder")
"""Settings of the policy that decide no result; a reward function of the user counts by the content of its file."""

SAMPLER = "execution.sampler"
"""What samples: it decides completions that are drawn at random, and no greedy ones."""

HOW_LOADED = ("models.dtype", "models.quantization", "models.thinking")
"""How a policy is loaded and asked, whichever it is."""

INITIAL_POLICY = ("models.policy", *HOW_LOADED)
"""The initial policy, and how it is loaded and asked."""

IN_STAGES = ("policy.order", "policy.stages", "policy.renew_reference")
"""Settings of a training in stages."""

OF_REWARDS = ("rewards", "completions.prompts", "completions.helpful_prompts", "sft.harmless_target", "seed")
COST_OF_REWARDS = Cost(
    ("rewards.epochs",),
    (
        "rewards.backbone",
        "rewards.layer",
        "rewards.hidden",
        "rewards.batch_size",
        "rewards.ensemble",
        "rewards.adapter",
    ),
)
LEFT_OUT = "leave_out.categories"
OF_POLICY = ("policy", "models.encoder", *INITIAL_POLICY, LEFT_OUT, "seed")
OF_GRPO = ("hardness", *OF_POLICY)
COST_OF_GRPO = Cost(
    ("policy.steps",),
    (
        "policy.start",
        "policy.prompts_per_step",
        "policy.num_generations",
        "policy.num_iterations",
        "policy.max_new_tokens",
        "policy.micro_batch",
        "policy.lora.rank",
        "policy.lora.first_layer",
        "policy.trl",
        "policy.rloo_trl",
        "hardness.refresh",
    ),
    tokens=True,
)


OF_PROPOSITIONS = (
    "rewards.beta",
    "rewards.include_demonstration",
    "rewards.negatives",
    "completions.prompts",
    "completions.helpful_prompts",
    "sft.harmless_target",
)


def wants_propositions(config: Config) -> bool:
    """Whether anything is trained on the reward over propositions."""
    return config.policy.reward == "propositions" or "propositions" in config.baselines


def for_grpo(rewards: str = "reward_model", start: str = "start") -> tuple[str, ...]:
    """Return the inputs of a policy that is trained on its own samples.

    Args:
        rewards: the stage that its rewards come from.
        start: what it starts from: `start`, which the last of several rounds may move, or `sft_checkpoint`.
    """
    return ("dataset", rewards, "hardness", start)


def of_backbone(config: Config) -> tuple[str, ...]:
    """The model that the reward heads read."""
    reads_policy = config.rewards.backbone != "embedding"
    return INITIAL_POLICY if reads_policy else ("models.encoder",)
