"""The stage that learns, measures and writes the reward model of one category."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.completions.choice import completed_rows
from drirl_core.config import CompletionsConfig
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.rounds import ROUND_POOLS
from drirl_core.reporting import Plot, Table
from drirl_core.rewards.evaluate import ScoredPrompt, evaluate, score_pool
from drirl_core.rewards.fit import Fitted, fit
from drirl_core.rewards.labels.agreement import label_agreement
from drirl_core.rewards.labels.items import LabelledItem, read_items
from drirl_core.rewards.model import backbone_class, source_of
from drirl_core.rewards.pairs import PoolPrompt, join_pool
from drirl_core.rewards.plots import plot_accuracy, plot_calibration, plot_curve, plot_rewards
from drirl_core.store.tables import read_table, write_table

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("split", pa.string()),
        ("policy", pa.string()),
        ("sample", pa.int32()),
        ("reward", pa.float64()),
    ]
)
COLUMNS = ("prompt_id", "prompt", "split", "demonstration", "answer", "origin", "kind")
"""Columns of a data set that reward learning reads."""
JOINT = "joint"
"""Category of the reward model that serves all of them."""
DEMONSTRATION = "demonstration"
"""Policy name of the demonstration's own row in `rewards.parquet`."""


def build_reward_model(context: stages.Context) -> dict[str, Any]:
    """Learn the shadow reward model of a category by maximum-likelihood IRL (docs/method.md, section 3).

    Args:
        context: inputs are the category's data set and completion pool, its pools of earlier rounds, and its labels.

    Returns:
        Display metadata: accuracy within groups of the policy's own samples, held-out accuracy, both with intervals,
        calibration, probes, curves.

    Raises:
        DataError: data set and pool do not belong together, or a split is empty.
        TrainingError: the loss or a reward is not finite, or the reward came out constant.
    """
    category = context.category or ""
    prompts = pool_prompts(
        context.inputs[dataset_name(category)], _pools(context, category), context.config.completions, category
    )
    return _learn(context, category, prompts, _labels(context))


def build_joint_reward_model(context: stages.Context) -> dict[str, Any]:
    """Learn one reward model from the prompts of all categories and the harmless ones, as `build_reward_model` does.

    Args:
        context: inputs are the data sets, completion pools and labels of all categories.
    """
    prompts = [prompt for own in all_pools(context).values() for prompt in own]
    return _learn(context, JOINT, prompts, _labels(context))


def _labels(context: stages.Context) -> list[LabelledItem]:
    """Return what people labelled, of all categories whose labels are among the inputs; nothing without labels."""
    return [item for _, folder in sorted(context.named("reward_labels").items()) for item in read_items(folder)]


def _learn(
    context: stages.Context, category: str, prompts: list[PoolPrompt], labels: list[LabelledItem]
) -> dict[str, Any]:
    reads = backbone_class(context.config.rewards.backbone).reads
    source = source_of(reads, context.config.models, context.store)
    config = context.config
    fitted = fit(
        category, prompts, source, config.rewards, config.seed, context.reporter, config.sft.own_answers, labels
    )
    scored = score_pool(fitted.model, prompts)
    metrics = evaluate(fitted.model, [s for s in scored if s.prompt.split != "train"])
    metrics["curve"] = [vars(point) for point in fitted.curve]
    metrics["best_epoch"] = fitted.best_epoch
    if labels:
        metrics["labels"] = label_agreement(fitted.model, labels)
    fitted.model.save(context.out)
    write_table(context.out / "rewards.parquet", _reward_rows(scored), SCHEMA)
    (context.out / "metrics.json").write_text(
        json.dumps(without_nan(metrics), indent=1, sort_keys=True), encoding="utf-8"
    )
    agreement = metrics.get("labels", {})
    beside = {f"labels_{name}": row["accuracy"] for name, row in agreement.items() if row["n"]}
    return {**_shown(metrics, fitted), **beside, **_plots(context, category, fitted, scored, metrics)}


def all_pools(context: stages.Context) -> dict[str, list[PoolPrompt]]:
    """Read the pools among the inputs, as `pool_prompts` does each, by category in alphabetical order."""
    settings = context.config.completions
    return {
        category: pool_prompts(context.inputs[dataset_name(category)], _pools(context, category), settings, category)
        for category in sorted(context.named("completion_pool"))
    }


def _pools(context: stages.Context, category: str) -> list[Path]:
    """Return the completion pool of a category, and behind it those of the rounds among the inputs."""
    names = (f"{stage}_{category}" for stage in ("completion_pool", *ROUND_POOLS))
    return [context.inputs[name] for name in names if name in context.inputs]


def pool_prompts(
    dataset: Path, completions: Sequence[Path], settings: CompletionsConfig, category: str
) -> list[PoolPrompt]:
    """Read the prompts of a category that have completions, with their pools.

    Args:
        dataset: directory of the category's data set.
        completions: directories of its completion pools, one per round so far.
        settings: which prompts have completions.
        category: name of the category.

    Raises:
        DataError: data set and pool do not belong together, or a split is empty.
    """
    return join_pool(
        completed_rows(read_table(dataset / "rows.parquet", COLUMNS), settings, category),
        [
            row
            for pool in completions
            for row in read_table(pool / "completions.parquet", ("prompt_id", "policy", "sample", "answer"))
        ],
        category,
    )


def _reward_rows(scored: list[ScoredPrompt]) -> list[dict[str, Any]]:
    rows = []
    for s in scored:
        both = [(DEMONSTRATION, 0, s.demonstration_reward)]
        both += [
            (reply.policy, reply.sample, reward)
            for reply, reward in zip(s.prompt.replies, s.reply_rewards, strict=True)
        ]
        rows += [
            {
                "prompt_id": s.prompt.prompt_id,
                "split": s.prompt.split,
                "policy": policy,
                "sample": sample,
                "reward": reward,
            }
            for policy, sample, reward in both
        ]
    return rows


def _shown(metrics: dict[str, Any], fitted: Fitted) -> dict[str, Any]:
    probes, within = metrics["probes"], metrics["within_group"]
    shown = {
        "within_group": within["all"]["accuracy"],
        "within_group_low": within["all"]["low"],
        "within_group_high": within["all"]["high"],
        "within_group_pairs": within["all"]["pairs"],
        "within_group_groups": within["all"]["groups"],
        **{f"within_group_{kind}": row["accuracy"] for kind, row in within["by_kind"].items()},
        **({"within_group_newest": within["newest"]["accuracy"]} if "newest" in within else {}),
        "accuracy": metrics["accuracy"],
        "accuracy_low": metrics["accuracy_low"],
        "n": metrics["n"],
        "prompts": metrics["prompts"],
        "accuracy_sampled": metrics["sampled"]["accuracy"],
        "prompt_accuracy": metrics["prompt_accuracy"]["accuracy"],
        "ece": metrics["ece"],
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.curve),
        "final_train_loss": fitted.curve[-1].train_loss,
        "best_validation_loss": fitted.curve[fitted.best_epoch - 1].validation_loss,
        "draft_max_difference": probes["draft"]["max_difference"],
        **{f"accuracy_{name}": row["accuracy"] for name, row in metrics["by_policy"].items()},
        **{f"probe_{name}": row["accuracy"] for name, row in probes.items() if "accuracy" in row},
    }
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in shown.items()}
    return {name: value for name, value in rounded.items() if not (isinstance(value, float) and math.isnan(value))}


def _plots(
    context: stages.Context, category: str, fitted: Fitted, scored: list[ScoredPrompt], metrics: dict[str, Any]
) -> dict[str, Any]:
    out = context.out
    plot_curve(fitted.curve, fitted.best_epoch, out / "curve.png", f"{category}: reward learning")
    rewards: dict[str, list[float]] = {}
    for row in _reward_rows([s for s in scored if s.prompt.split != "train"]):
        rewards.setdefault(row["policy"], []).append(row["reward"])
    plot_rewards(rewards, out / "rewards.png", f"{category}: rewards of held-out prompts")
    rows = {f"within groups: {kind}": _within_row(row) for kind, row in metrics["within_group"]["by_kind"].items()}
    rows |= {
        "all pairs": {
            "n": metrics["n"],
            "accuracy": metrics["accuracy"],
            "low": metrics["accuracy_low"],
            "high": metrics["accuracy_high"],
        }
    }
    rows |= {f"over {name}": row for name, row in metrics["by_policy"].items()}
    rows |= {f"probe: {name}": row for name, row in metrics["probes"].items() if row["n"] and "accuracy" in row}
    plot_accuracy(rows, out / "accuracy.png", f"{category}: held-out accuracy and probes")
    plot_calibration(
        metrics["reliability"], metrics["ece"], out / "calibration.png", f"{category}: calibration on held-out pairs"
    )
    table = [
        {"pairs": name, "n": row["n"], "accuracy": round(row["accuracy"], 3), "low": round(row["low"], 3)}
        for name, row in rows.items()
    ]
    return {
        "curve": Plot(out / "curve.png", "Loss and validation accuracy by epoch"),
        "accuracy_plot": Plot(
            out / "accuracy.png", "Share of held-out pairs won, by who wrote the other completion, and probes"
        ),
        "rewards": Plot(out / "rewards.png", "Rewards of held-out demonstrations and completions"),
        "calibration": Plot(out / "calibration.png", "How sure the model is, and how often it is right"),
        "pairs": Table(table),
    }


def _within_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": row["pairs"], **{name: row[name] for name in ("accuracy", "low", "high")}}


def without_nan(value: Any) -> Any:
    """Replace NaN (a share of no pairs) by null, which JSON has."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
