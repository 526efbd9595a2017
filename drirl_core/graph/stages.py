"""The kinds of work: which function does each, and which settings decide its result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Args:
        function: `module:name` of the function that builds it, imported on use because it may load torch.
        version: raised when the algorithm changes, which makes every artifact of the stage stale.
        config: dotted sections of the configuration that decide its result.
        unread: dotted settings below them that no build reads, or that decide no result: bounds of checks, say. To change one
            makes nothing anew.
        group: group in the asset graph.
        heavy: whether it trains or samples (asks for a GPU).
        volatile: files whose bytes may differ between equal results.
    """

    function: str
    version: str
    config: tuple[str, ...]
    group: str
    heavy: bool = False
    volatile: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()


TIMES = frozenset({"times.jsonl"})

STAGES: dict[str, Stage] = {
    "prompt_pool": Stage(
        "drirl_core.prompts.stage:build_prompt_pool",
        "1",
        ("prompts", "benchmarks.suites", "models.encoder", "seed"),
        "prompts",
        unread=("benchmarks.suites.limit",),
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
    ),
    "balance_report": Stage(
        "drirl_core.demonstrations.balance:build_balance_report", "1", ("demonstrations.quota",), "demonstrations"
    ),
    "sft_checkpoint": Stage(
        "drirl_core.policy.sft:build_sft_checkpoint",
        "1",
        ("sft", "models.policy", "models.dtype", "seed"),
        "policy",
        heavy=True,
        volatile=TIMES,
    ),
    "completion_pool": Stage(
        "drirl_core.completions.stage:build_completion_pool",
        "3",
        ("completions", "models.policy", "models.dtype", "seed"),
        "completions",
        heavy=True,
    ),
    "reward_model": Stage(
        "drirl_core.rewards.stage:build_reward_model",
        "3",
        ("rewards", "models.encoder", "seed"),
        "rewards",
        heavy=True,
        unread=("rewards.min_accuracy",),
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
    ),
    "policy_checkpoint": Stage(
        "drirl_core.policy.grpo:build_policy_checkpoint",
        "1",
        ("policy", "hardness", "models.policy", "models.encoder", "models.dtype", "seed"),
        "policy",
        heavy=True,
        volatile=TIMES,
        unread=("policy.max_kl", "policy.save_steps"),
    ),
    "reference_classifiers": Stage(
        "drirl_core.benchmarks.references.stage:build_reference_classifiers",
        "1",
        ("benchmarks.reference_over_refusal", "models.policy", "models.dtype"),
        "benchmarks",
        heavy=True,
    ),
    "benchmark": Stage(
        "drirl_core.benchmarks.stage:build_benchmark",
        "2",
        ("benchmarks", "models.policy", "models.dtype", "seed"),
        "benchmarks",
        heavy=True,
        unread=(
            "benchmarks.max_over_refusal",
            "benchmarks.min_refusal",
            "benchmarks.report_only",
            "benchmarks.reference_over_refusal",  # it reads the thresholds that were chosen with it
        ),
    ),
    "promotion_candidate": Stage("drirl_core.promotion.candidate:build_candidate", "1", (), "report"),
    "report": Stage(
        "drirl_core.report.stage:build_report",
        "2",
        ("name", "prompts.taxonomy"),
        "report",
        volatile=frozenset({"report.html", "summary.json"}),
    ),
    "model_card": Stage("drirl_core.report.card:build_model_card", "2", ("name",), "report"),
}
