"""One record per stage: everything that is said of a kind of work is said here, and everybody else reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from drirl_core.config import Config

Per = Literal["run", "category", "harm_category", "suite"]


def _always(config: Config) -> bool:
    return True


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Args:
        function: `module:name` of the function that builds it, imported on use because it may load torch.
        version: raised when the algorithm changes, which makes every artifact of the stage stale.
        config: dotted sections of the configuration that decide its result.
        group: group in the asset graph.
        heavy: whether it trains or samples (asks for a GPU).
        volatile: files whose bytes may differ between equal results.
        unread: dotted settings below `config` that no build reads, or that decide no result; to change one recomputes
            nothing.
        per: what it has one asset of: the run, each category with `helpful`, each harm category, or each suite.
        inputs: what it is made from: stages above it in the table (an asset per category takes that of its own category, any
            other asset takes all of them) and names of `drirl_core.graph.layout.INPUTS`.
        description: one sentence for people; `{member}` is the category or suite.
        helpful_description: the sentence for the category `helpful`, where it differs.
        when: whether a configuration has the stage at all.
    """

    function: str
    version: str
    config: tuple[str, ...]
    group: str
    heavy: bool = False
    volatile: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    per: Per = "run"
    inputs: tuple[str, ...] = ()
    description: str = ""
    helpful_description: str = ""
    when: Callable[[Config], bool] = _always

    @property
    def per_category(self) -> bool:
        """Whether it has one asset per category."""
        return self.per in ("category", "harm_category")


def _starts_from_sft(config: Config) -> bool:
    return config.policy.start == "sft"


TIMES = frozenset({"times.jsonl"})

STAGES: dict[str, Stage] = {
    "prompt_pool": Stage(
        "drirl_core.prompts.stage:build_prompt_pool",
        "1",
        ("prompts", "benchmarks.suites", "models.encoder", "seed"),
        "prompts",
        unread=("benchmarks.suites.limit",),
        inputs=("prompt sources", "suite sources"),
        description=(
            "Unsafe prompts of all sources: cleaned, routed to a category, free of duplicates and of benchmark prompts."
        ),
    ),
    "dataset": Stage(
        "drirl_core.demonstrations.stage:build_dataset",
        "1",
        (
            "demonstrations",
            "prompts.taxonomy",
            "prompts.near_duplicate",
            "prompts.max_chars",
            "benchmarks.suites",
            "seed",
        ),
        "demonstrations",
        unread=(
            "demonstrations.max_resampled_fraction",
            "demonstrations.demonstrator.api_key_env",
            "benchmarks.suites.limit",
        ),
        per="category",
        inputs=("prompt_pool", "harmless rows", "suite sources", "demonstration rows"),
        description="Balanced prompts with demonstrations for {member}.",
        helpful_description="Harmless prompts with good answers; safe look-alikes among them.",
    ),
    "balance_report": Stage(
        "drirl_core.demonstrations.balance:build_balance_report",
        "1",
        ("demonstrations.quota",),
        "demonstrations",
        inputs=("prompt_pool", "dataset"),
        description="Rows per category before and after balancing, imbalance ratio and entropy.",
    ),
    "sft_checkpoint": Stage(
        "drirl_core.policy.sft:build_sft_checkpoint",
        "1",
        ("sft", "models.policy", "models.dtype", "seed"),
        "policy",
        heavy=True,
        volatile=TIMES,
        inputs=("dataset",),
        description="The policy after supervised fine-tuning on demonstrations and helpful answers.",
        when=_starts_from_sft,
    ),
    "completion_pool": Stage(
        "drirl_core.completions.stage:build_completion_pool",
        "3",
        ("completions", "models.policy", "models.dtype", "seed"),
        "completions",
        heavy=True,
        per="category",
        inputs=("dataset", "contrast answers", "sampled start"),
        description="Seeded completions of the {member} prompts by the reference policies.",
    ),
    "reward_model": Stage(
        "drirl_core.rewards.stage:build_reward_model",
        "3",
        ("rewards", "models.encoder", "seed"),
        "rewards",
        heavy=True,
        unread=("rewards.min_accuracy",),
        per="category",
        inputs=("dataset", "completion_pool"),
        description="Shadow reward model of {member}, learned by maximum-likelihood IRL.",
    ),
    "hardness": Stage(
        "drirl_core.hardness.stage:build_hardness",
        "1",
        ("hardness", "models.encoder", "seed"),
        "hardness",
        heavy=True,
        unread=(
            "hardness.responsiveness",
            "hardness.ema_decay",
            "hardness.refresh",
            "hardness.granularity",
        ),  # of the policy alone
        per="harm_category",
        inputs=("dataset", "completion_pool", "reward_model"),
        description="Data hardness, model responsiveness and alpha of the {member} prompts.",
    ),
    "policy_checkpoint": Stage(
        "drirl_core.policy.grpo:build_policy_checkpoint",
        "1",
        ("policy", "hardness", "models.policy", "models.encoder", "models.dtype", "seed"),
        "policy",
        heavy=True,
        volatile=TIMES,
        unread=("policy.max_kl", "policy.save_steps"),
        inputs=("dataset", "reward_model", "hardness", "sft_checkpoint"),
        description="The policy aligned by GRPO with dynamic reward scaling.",
    ),
    "benchmark": Stage(
        "drirl_core.benchmarks.stage:build_benchmark",
        "1",
        ("benchmarks", "models.policy", "models.dtype", "seed"),
        "benchmarks",
        heavy=True,
        unread=("benchmarks.max_over_refusal", "benchmarks.min_refusal"),
        per="suite",
        inputs=("sft_checkpoint", "policy_checkpoint", "own suite"),
        description="Base, start and aligned policy on the suite {member}.",
    ),
    "promotion_candidate": Stage(
        "drirl_core.promotion.candidate:build_candidate",
        "1",
        (),
        "report",
        inputs=("policy_checkpoint", "benchmark"),
        description="The aligned policy with the evidence that its gates judge before it is promoted.",
    ),
    "report": Stage(
        "drirl_core.report.stage:build_report",
        "1",
        ("name", "prompts.taxonomy"),
        "report",
        volatile=frozenset({"report.html", "summary.json"}),
        inputs=(
            "balance_report",
            "dataset",
            "reward_model",
            "hardness",
            "sft_checkpoint",
            "policy_checkpoint",
            "benchmark",
        ),
        description="One HTML page: results, curves, samples, cost.",
    ),
    "model_card": Stage(
        "drirl_core.report.card:build_model_card",
        "1",
        ("name",),
        "report",
        inputs=("policy_checkpoint", "benchmark"),
        description="Model card of the aligned policy.",
    ),
}
"""The stages in topological order: each one needs only what stands above it."""
