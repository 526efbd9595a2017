"""The policy of a round that another one follows, and its completions, on which the next rewards are learned too.

The lower level of the likelihood (docs/method.md, section 3) is E[r] - beta KL over all prompts alike, so that alpha is
1 here: it shapes the final policy alone. The last step is published, and never a checkpoint chosen on validation
prompts: what its rewards lead to when they are followed is just what the next ones have to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drirl_core.benchmarks.judges.rules import UNUSABLE, label_reply
from drirl_core.completions.choice import completed_rows
from drirl_core.completions.policies import ROUNDS
from drirl_core.completions.stage import SCHEMA, figures_of, sampled_rows
from drirl_core.config import HardnessConfig
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.rounds import number_of, policy_of, rewards_of
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.policy.grpo import align
from drirl_core.reporting import Table
from drirl_core.rewards import load_reward_model
from drirl_core.rewards.evaluate import ScoredPrompt, score_pool
from drirl_core.rewards.model import source_of
from drirl_core.rewards.pairs import join_pool
from drirl_core.rewards.stage import without_nan
from drirl_core.rewards.within_groups import within_groups
from drirl_core.store.tables import read_table, write_table


def build_round_policy(context: stages.Context) -> dict[str, Any]:
    """Train the policy that the rewards of a round lead to, as the final one is trained but with alpha = 1.

    Its seed is that of the policy plus the number of the round, so that rounds repeat neither the order of the prompts
    nor the samples of each other.

    Args:
        context: inputs are all data sets, the reward models of the round, and the checkpoint that is the start, if it
            is not the initial model; `asset` says which round it is.

    Returns:
        Display metadata, as of `build_policy_checkpoint`.

    Raises:
        ConfigError: an adapter's target is no layer of the model.
        DataError: a data set has no training rows, or all its prompts are too long to be completed.
        TrainingError: a reward, loss or weight is not finite.
    """
    config = context.config
    seed = config.seed_of(config.policy) + number_of(context.asset)
    # What hardness does, as a weight or as an order, is for the final policy; here no prompt has one yet.
    policy = replace(config.policy, seed=seed, order="random", stages=1, renew_reference=False)
    changed = replace(config, hardness=HardnessConfig(combine="none"), policy=policy)
    return align(replace(context, config=changed), context.asset, publish_last=True)


def build_round_pool(context: stages.Context) -> dict[str, Any]:
    """Sample the policy of a round on the prompts of the completion pool, and see how its rewards order what it says.

    The prompts outside the training split are completed too: the next rewards choose their epoch and are measured on
    such completions. Where the rewards that trained the policy no longer order its completions, it has learned to
    please them.

    Args:
        context: inputs are the category's data set, the policy of the round and the reward model that trained it;
            `asset` says which round it is.

    Returns:
        Display metadata: rows, prompts, tokens, share of finished completions, and of the prompts outside the training
        split the refused shares by kind and the order within groups with its interval.

    Raises:
        DataError: a prompt is longer than the policy can read.
        TrainingError: a logit or a reward is not finite.
    """
    category, number = context.category or "", number_of(context.asset)
    config = context.config
    settings, copies = config.completions, config.rewards.round_samples
    rows = completed_rows(read_table(context.inputs[dataset_name(category)] / "rows.parquet"), settings, category)
    how = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.batch_size, config.seed)
    context.reporter.log(f"{category}: {copies} completions of {len(rows)} prompts from the policy of round {number}")
    drawn = sample(
        context.inputs[policy_of(number)], [row["prompt"] for row in rows], copies, how,
        models=config.models, store=context.store, reporter=context.reporter, vllm=config.execution.engine,
    )  # fmt: skip
    pool = sampled_rows(rows, ROUNDS[number - 1], drawn)
    pool.sort(key=lambda row: (row["prompt_id"], row["sample"]))
    write_table(context.out / "completions.parquet", pool, SCHEMA)
    metrics = _measured(context, rows, pool)
    (context.out / "metrics.json").write_text(
        json.dumps(without_nan(metrics), indent=1, sort_keys=True), encoding="utf-8"
    )
    within = metrics["within_group"]["all"]
    order = {"within_group": within["accuracy"], **{f"within_group_{end}": within[end] for end in ("low", "high")}}
    return {
        **({name: round(value, 4) for name, value in order.items()} if within["pairs"] else {}),
        "dagster/row_count": len(pool),
        "prompts": len(rows),
        "sampled": len(pool),
        **figures_of(pool, category, context.reporter),
        **{f"refused_{kind}": round(row["refused"], 4) for kind, row in metrics["replies"].items()},
        "examples": Table([{"policy": row["policy"], "reply": row["answer"][:90]} for row in pool[:6]]),
    }


def _measured(
    context: stages.Context, rows: Sequence[dict[str, Any]], pool: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Judge and reward the completions of the prompts outside the training split.

    Args:
        context: of the stage.
        rows: the prompts.
        pool: their completions.

    Returns:
        JSON data: `replies` by kind of prompt (`n`, shares `refused` and `unusable`), and `within_group` with `all` and
        `by_kind`, by the reward model that trained the policy.
    """
    category, number = context.category or "", number_of(context.asset)
    model = load_reward_model(context.inputs[f"{rewards_of(number)}_{category}"])
    model.use(source_of(model.reads, context.config.models, context.store))
    held_out = [prompt for prompt in join_pool(rows, pool, category) if prompt.split != "train"]
    scored = score_pool(model, held_out)
    order = within_groups((one.prompt, one.reply_rewards) for one in scored)
    return {"replies": _replies(scored), "within_group": {name: order[name] for name in ("all", "by_kind")}}


def _replies(scored: Sequence[ScoredPrompt]) -> dict[str, dict[str, float]]:
    """Return how often the policy refused, and how often it said nothing usable, by kind of prompt."""
    labels: dict[str, list[str]] = {}
    for one in scored:
        said = [label_reply(reply.answer, one.prompt.prompt) for reply in one.prompt.replies]
        labels.setdefault(one.prompt.kind, []).extend(said)
    return {
        kind: {
            "n": len(found),
            "refused": found.count("refusal") / len(found),
            "unusable": sum(label in UNUSABLE for label in found) / len(found),
        }
        for kind, found in sorted(labels.items())
    }
