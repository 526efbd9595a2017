"""The records of the stages that end a graph: they measure the policies, offer one for promotion, and report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drirl_core.config import BASELINES, BEST_OF_N, TRAINED
from drirl_core.graph.columns import meanings
from drirl_core.graph.reads import INITIAL_POLICY, SAMPLER
from drirl_core.graph.record import Cost, MainTable, Stage
from drirl_core.graph.rounds import ROUND_POLICIES, ROUND_POOLS, ROUND_REWARDS

if TYPE_CHECKING:
    from drirl_core.config import Config


def _of_scores(config: Config) -> tuple[str, ...]:
    """Replies are greedy, so that the sampler decides only a score that draws some."""
    return (SAMPLER,) if config.benchmarks.score == "samples" else ()


def _judged_by_a_model(config: Config) -> bool:
    return "llm" in (config.benchmarks.judge, config.benchmarks.second_judge)


def _shows_safety_policy(config: Config) -> bool:
    return bool(config.demonstrations.safety_policy)


RESULT_STAGES: dict[str, Stage] = {
    "benchmark": Stage(
        "drirl_core.benchmarks.stage:build_benchmark",
        "3",
        ("benchmarks", *INITIAL_POLICY, "seed"),
        "benchmarks",
        heavy=True,
        # It reads what was made with the first two; the others decide no verdict.
        unread=(
            "benchmarks.reference_over_refusal",
            "benchmarks.best_of",
            "benchmarks.llm.api_key_env",
            "benchmarks.llm.parallel",
        ),
        safety_policy=_judged_by_a_model,
        per="suite",
        inputs=(
            "sft_checkpoint",
            "policy_checkpoint",
            *(f"{name}_checkpoint" for name in TRAINED),
            BEST_OF_N,
            "reference_classifiers",
            "own suite",
        ),
        description="Base, start, baselines and aligned policy on the suite {member}, between floor and ceiling.",
        table=MainTable(
            "replies.parquet",
            {
                **meanings("suite", "group", "category", "prompt_id", "prompt"),
                "policy": f"who wrote the reply: base, sft, a baseline ({', '.join(BASELINES)}), or dr_irl",
                **meanings("reply", "tokens", "finished", "label", "correct", "pair", "score"),
            },
        ),
        config_when=_of_scores,
        cost=Cost(
            decisive=(
                "benchmarks.max_new_tokens",
                "benchmarks.batch_size",
                "benchmarks.suites[{member}]",
                "benchmarks.score",
                "benchmarks.score_samples",
            ),
            tokens=True,
        ),
        checks="drirl_core.checks.benchmarks:BENCHMARK",
    ),
    "promotion_candidate": Stage(
        "drirl_core.promotion.candidate:build_candidate",
        "1",
        (),
        "report",
        inputs=("policy_checkpoint", "benchmark"),
        description="The aligned policy with the evidence that its gates judge before it is promoted.",
        checks="drirl_core.checks.candidate:CANDIDATE",
    ),
    "report": Stage(
        "drirl_core.report.stage:build_report",
        "4",
        ("name", "prompts.taxonomy"),
        "report",
        volatile=frozenset({"report.html", "summary.json"}),
        safety_policy=_shows_safety_policy,
        judge_error=_judged_by_a_model,
        inputs=(
            "balance_report",
            "dataset",
            *ROUND_REWARDS,
            *ROUND_POLICIES,
            *ROUND_POOLS,
            "reward_model",
            "proposition_reward",
            "hardness",
            "sft_checkpoint",
            "policy_checkpoint",
            "benchmark",
        ),
        description="One HTML page: results, curves, samples, cost.",
    ),
    "model_card": Stage(
        "drirl_core.report.card:build_model_card",
        "2",
        ("name",),
        "report",
        judge_error=_judged_by_a_model,
        inputs=("policy_checkpoint", "benchmark"),
        description="Model card of the aligned policy.",
    ),
}
"""By name, in topological order; they need the policies and, for the report, what these are made from."""
