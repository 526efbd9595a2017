"""The stage that fits, measures and writes the reward over propositions."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from drirl_core import taxonomy
from drirl_core.graph import build as stages
from drirl_core.reporting import Table
from drirl_core.rewards.pairs import PoolPrompt, without_likely_right
from drirl_core.rewards.proposition_reward import HARMLESS, KINDS, PropositionReward, fit_kind, kind_of
from drirl_core.rewards.stage import all_pools, without_nan
from drirl_core.rewards.within_groups import within_groups
from drirl_core.store.tables import write_table

TABLE = "propositions.parquet"
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("proposition", pa.string()),
        ("meaning", pa.string()),
        ("weight", pa.float64()),
        ("demonstrations", pa.float64()),
        ("completions", pa.float64()),
    ]
)


def build_proposition_reward(context: stages.Context) -> dict[str, Any]:
    """Fit one weight per proposition and kind of prompt by maximum-entropy IRL (docs/method.md, section 3).

    Args:
        context: inputs are the data sets and completion pools of all categories; no model is loaded.

    Returns:
        Display metadata: accuracy within groups of the policy's own samples with its interval, and the table of
        propositions.

    Raises:
        DataError: data set and pool do not belong together, a kind has no training prompt, or there is nothing to set
            against a demonstration.
        TrainingError: a fit did not converge, or its reward is constant.
    """
    prompts = [prompt for own in all_pools(context).values() for prompt in own]
    kinds, rows = {}, []
    for kind in KINDS:
        train = [p for p in _against(context, prompts) if p.split == "train" and kind_of(p) == kind]
        kinds[kind], found = fit_kind(train, context.config.rewards, kind)
        rows += found
    reward = PropositionReward(kinds)
    reward.save(context.out)
    write_table(context.out / TABLE, rows, SCHEMA)
    measured = within_groups((p, _scores(reward, p)) for p in prompts if p.split != "train")
    every = {"all": measured["all"], **measured["by_kind"]}
    (context.out / "metrics.json").write_text(
        json.dumps(without_nan({"within_group": every}), indent=1, sort_keys=True), encoding="utf-8"
    )
    shown = {
        "within_group" if name == "all" else f"within_group_{name}": row["accuracy"] for name, row in every.items()
    }
    shown |= {f"within_group_{end}": every["all"][end] for end in ("low", "high", "pairs", "groups")}
    rounded = {name: round(value, 4) for name, value in shown.items() if not math.isnan(value)}
    table = [
        {**row, **{name: round(row[name], 3) for name in ("weight", "demonstrations", "completions")}} for row in rows
    ]
    return {**rounded, "propositions": Table(table)}


def _against(context: stages.Context, prompts: list[PoolPrompt]) -> list[PoolPrompt]:
    """Return the prompts with the completions that count against their demonstrations, as for the reward models."""
    if context.config.rewards.negatives == "all":
        return prompts
    return without_likely_right(prompts, "the proposition reward", context.config.sft.own_answers)


def _scores(reward: PropositionReward, prompt: PoolPrompt) -> np.ndarray:
    """Return the rewards of a prompt's completions, (K,)."""
    category = taxonomy.HELPFUL if kind_of(prompt) == HARMLESS else "harm"  # any category that is not the helpful one
    count = len(prompt.replies)
    return reward.rewards([prompt.prompt] * count, [reply.answer for reply in prompt.replies], [category] * count)
