"""One record per stage: everything that defines a stage; all other code reads it from `STAGES`.

The records of baselines, further rounds and results are in `baselines`, `rounds` and `results`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drirl_core.graph.baselines import BASELINE_STAGES, BEST_OF_N_STAGES
from drirl_core.graph.columns import meanings
from drirl_core.graph.reads import (
    BESIDE_POLICY,
    BESIDE_WEIGHTS,
    COST_OF_GRPO,
    COST_OF_REWARDS,
    HOW_LOADED,
    INITIAL_POLICY,
    LEFT_OUT,
    OF_GRPO,
    OF_PROPOSITIONS,
    OF_REWARDS,
    SAMPLER,
    for_grpo,
    of_backbone,
    wants_propositions,
)
from drirl_core.graph.record import Cost, MainTable, Stage
from drirl_core.graph.results import RESULT_STAGES
from drirl_core.graph.rounds import BESIDE_REWARDS, ROUND_POOLS, ROUND_STAGES

if TYPE_CHECKING:
    from drirl_core.config import Config


def _starts_from_sft(config: Config) -> bool:
    return config.policy.start == "sft"


def _has_labels(config: Config) -> bool:
    return bool(config.rewards.labels)


def _of_demonstrator(config: Config) -> tuple[str, ...]:
    """A local model writes demonstrations in its own number type, may think before it does, and is sampled."""
    return (*HOW_LOADED, SAMPLER) if config.demonstrations.demonstrator.kind == "model" else ()


def _written_by_a_model(config: Config) -> bool:
    return config.demonstrations.demonstrator.kind != "file"


STAGES: dict[str, Stage] = {
    "prompt_pool": Stage(
        "drirl_core.prompts.stage:build_prompt_pool",
        "3",
        ("prompts", "models.encoder", "seed"),
        "prompts",
        inputs=("prompt sources", "suite sources"),
        description=(
            "Unsafe prompts of all sources: cleaned, routed to a category, free of duplicates and of benchmark prompts."
        ),
        table=MainTable(
            "prompts.parquet",
            meanings(
                "prompt_id",
                "prompt",
                "category",
                "source",
                "licence",
                "labelled_by",
                "router_confidence",
                "group_id",
                "row_id",
                "style",
            ),
        ),
        checks="drirl_core.checks.data:PROMPT_POOL",
        excluded="drirl_core.prompts.exclusion:excluded_prompts",
    ),
    "dataset": Stage(
        "drirl_core.demonstrations.stage:build_dataset",
        "2",
        (
            "demonstrations",
            "prompts.taxonomy",
            "prompts.near_duplicate",
            "prompts.max_chars",
            "seed",
        ),
        "demonstrations",
        unread=("demonstrations.demonstrator.api_key_env", "demonstrations.safety_policy"),
        safety_policy=_written_by_a_model,
        per="category",
        inputs=("prompt_pool", "harmless rows", "suite sources", "demonstration rows"),
        description="Balanced prompts with demonstrations for {member}.",
        helpful_description="Harmless prompts with good answers; safe look-alikes among them.",
        table=MainTable(
            "rows.parquet",
            meanings(
                "prompt_id",
                "prompt",
                "category",
                "demonstration",
                "answer",
                "kind",
                "source",
                "licence",
                "split",
                "origin",
                "group_id",
                "style",
                "twin_of",
            ),
        ),
        config_when=_of_demonstrator,
        cost=Cost(
            decisive=(
                "demonstrations.quota",
                "demonstrations.category_quota",
                "demonstrations.demonstrator.kind",
                "demonstrations.demonstrator.model",
            )
        ),
        checks="drirl_core.checks.data:DATASET",
        excluded="drirl_core.demonstrations.exclusion:excluded_prompts",
    ),
    "balance_report": Stage(
        "drirl_core.demonstrations.balance:build_balance_report",
        "1",
        ("demonstrations.quota", "demonstrations.category_quota"),
        "demonstrations",
        inputs=("prompt_pool", "dataset"),
        description="Rows per category before and after balancing, imbalance ratio and entropy.",
    ),
    "sft_checkpoint": Stage(
        "drirl_core.policy.sft:build_sft_checkpoint",
        "4",
        ("sft", *INITIAL_POLICY, LEFT_OUT, "seed"),
        "policy",
        heavy=True,
        volatile=BESIDE_WEIGHTS,
        inputs=("dataset",),
        description="The policy after supervised fine-tuning on demonstrations and helpful answers.",
        when=_starts_from_sft,
        cost=Cost(
            ("sft.epochs",),
            (
                "sft.rows_per_category",
                "sft.helpful_rows",
                "sft.target",
                "sft.harmless_target",
                "sft.batch_size",
                "sft.max_length",
                "sft.answer_tokens",
                "sft.contrast",
                "sft.contrast_tokens",
                "sft.decision",
                "sft.decision_prompts",
                "sft.share_lower_layers",
                "sft.lora.rank",
                "sft.lora.first_layer",
                "sft.trl",
            ),
            tokens=True,
        ),
        checks="drirl_core.checks.training:SFT_CHECKPOINT",
        batch="drirl_core.policy.shares:batch_of_sft",
    ),
    "completion_pool": Stage(
        "drirl_core.completions.stage:build_completion_pool",
        "3",
        ("completions", *INITIAL_POLICY, SAMPLER, "seed"),
        "completions",
        heavy=True,
        per="category",
        inputs=("dataset", "contrast answers", "sampled start"),
        description="Seeded completions of the {member} prompts by the reference policies.",
        table=MainTable(
            "completions.parquet",
            {
                **meanings("prompt_id"),
                "policy": "who wrote the completion: base, sft, or the kind of contrast",
                **meanings("sample", "completion", "answer", "tokens", "finished"),
            },
        ),
        cost=Cost(
            ("completions.samples",),
            ("completions.max_new_tokens", "completions.batch_size", SAMPLER),
            tokens=True,
            prompts=True,
            most_prompts="drirl_core.completions.choice:most_completed",
        ),
    ),
    "reward_labels": Stage(
        "drirl_core.rewards.labels.stage:build_reward_labels",
        "1",
        (
            "rewards.labels",
            "prompts.taxonomy",
            "prompts.near_duplicate",
            "prompts.router_confidence",
            "prompts.max_chars",
            "models.encoder",
            "seed",
        ),
        "rewards",
        per="category",
        inputs=("prompt_pool", "labelled rows", "suite sources"),
        description="Completions that people labelled in {member}, if `rewards.labels` names files of them.",
        when=_has_labels,
        table=MainTable(
            "labels.parquet",
            {
                "item": "rows that are compared share it: those of one prompt, or the two of a preference pair",
                **meanings("prompt_id", "prompt", "category"),
                "split": "train; or validation or test if the prompt repeats a held-out prompt of a data set",
                "pair": "whether the row is half of a preference pair, rather than right or wrong by itself",
                "answer": "the completion without its draft",
                "label": "right or wrong; of a preference pair the chosen one is right",
                **meanings("source"),
            },
        ),
        excluded="drirl_core.rewards.labels.exclusion:excluded_prompts",
    ),
    **ROUND_STAGES,
    "reward_model": Stage(
        "drirl_core.rewards.stage:build_reward_model",
        "6",
        OF_REWARDS,
        "rewards",
        heavy=True,
        unread=BESIDE_REWARDS,
        per="category",
        inputs=("dataset", "completion_pool", *ROUND_POOLS, "reward_labels"),
        description="Shadow reward model of {member}, learned by maximum-likelihood IRL.",
        table=MainTable(
            "rewards.parquet",
            {
                **meanings("prompt_id", "split"),
                "policy": "who wrote the completion: demonstration, base, sft, an earlier round (round_1), or the kind "
                "of contrast",
                **meanings("sample", "reward"),
            },
        ),
        config_when=of_backbone,
        cost=COST_OF_REWARDS,
        checks="drirl_core.checks.training:REWARD_MODEL",
    ),
    "hardness": Stage(
        "drirl_core.hardness.stage:build_hardness",
        "2",
        ("hardness", "completions.prompts", "completions.helpful_prompts", "models.encoder", "seed"),
        "hardness",
        heavy=True,
        unread=(
            "hardness.responsiveness",
            "hardness.ema_decay",
            "hardness.refresh",
            "hardness.granularity",
        ),  # of the policy alone
        per="harm_category",
        inputs=("dataset", "pool of the start", "reward_model"),
        description="Data hardness, model responsiveness and alpha of the {member} prompts.",
        table=MainTable(
            "hardness.parquet",
            meanings("prompt_id", "category", "similarity", "delta", "alpha_d", "gap", "kept", "alpha_m", "alpha"),
        ),
    ),
    "proposition_reward": Stage(
        "drirl_core.rewards.proposition_stage:build_proposition_reward",
        "1",
        OF_PROPOSITIONS,
        "rewards",
        inputs=("dataset", "completion_pool", *ROUND_POOLS),
        description="A reward that is linear in readable propositions, if `baselines` or `policy.reward` names it.",
        when=wants_propositions,
        table=MainTable(
            "propositions.parquet",
            {
                "kind": "kind of prompt: harmful or harmless",
                "proposition": "name of the proposition",
                "meaning": "what it says of a reply",
                "weight": "what its truth adds to the reward, before normalising",
                "demonstrations": "share of the training demonstrations of which it is true",
                "completions": "share of the completions set against them of which it is true",
            },
        ),
    ),
    "policy_checkpoint": Stage(
        "drirl_core.policy.grpo:build_policy_checkpoint",
        "4",
        OF_GRPO,
        "policy",
        heavy=True,
        volatile=BESIDE_WEIGHTS,
        unread=(*BESIDE_POLICY, "policy.rloo_trl"),
        inputs=(*for_grpo(), "rewards of propositions"),
        description="The policy aligned by GRPO with dynamic reward scaling.",
        cost=COST_OF_GRPO,
        checks="drirl_core.checks.training:POLICY_CHECKPOINT",
        batch="drirl_core.policy.shares:batch_of_rollouts",
    ),
    **BASELINE_STAGES,
    "reference_classifiers": Stage(
        "drirl_core.benchmarks.references.stage:build_reference_classifiers",
        "2",
        ("benchmarks.reference_over_refusal", *INITIAL_POLICY),
        "benchmarks",
        heavy=True,
        inputs=("dataset",),
        description="Floor and ceiling of the benchmarks: a bag of words, and a linear probe of the frozen base model.",
    ),
    **BEST_OF_N_STAGES,
    **RESULT_STAGES,
}
"""The stages in topological order: each one needs only stages above it."""
