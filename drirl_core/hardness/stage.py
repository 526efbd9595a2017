"""The stage that computes the hardness of one category's training prompts against its reference policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from drirl_core.completions.choice import completed_rows
from drirl_core.completions.policies import ROUNDS
from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.rounds import ROUND_POOLS, number_of
from drirl_core.hardness.equations import category_coefficients, data_hardness, derange
from drirl_core.hardness.similarity import SentenceSimilarity
from drirl_core.models.embeddings import RECORD, Embedder
from drirl_core.pictures.palette import on_white
from drirl_core.reporting import Plot, Table
from drirl_core.store.tables import read_table, write_table

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("category", pa.string()),
        ("similarity", pa.float64()),
        ("delta", pa.float64()),
        ("alpha_d", pa.float64()),
        ("gap", pa.float64()),
        ("kept", pa.bool_()),
        ("alpha_m", pa.float64()),
        ("alpha", pa.float64()),
    ]
)


@dataclass(frozen=True)
class _Measured:
    """Similarity and gap of N training prompts, each a mean over its completions."""

    prompts: list[dict[str, Any]]
    policy: str
    similarity: np.ndarray
    gap: np.ndarray


def build_hardness(context: stages.Context) -> dict[str, Any]:
    """Compute data hardness, model responsiveness and alpha of a category's training prompts (docs/method.md, 4).

    The completions are those of the policy that GRPO starts from: the policy of the previous round where GRPO continues
    from it (`rewards.round_start`), else `sft` where the pool has any, else `base`. W and the reward gap of a prompt
    are means over its completions; the table's alpha is not divided by a batch mean, which the policy stage does for
    its own batches. With combine `shuffled` a random derangement gives each alpha to another prompt.

    Args:
        context: inputs are the category's data set, completion pool and reward model, and the pool of the previous
            round where GRPO starts from its policy.

    Returns:
        Display metadata: ranges of alpha, means, hardest and easiest prompts, a histogram.

    Raises:
        DataError: there are no training prompts, or completion pool and reward table do not match.
        TrainingError: a fixed tau keeps no gap.
    """
    category, settings = context.category or "", context.config.hardness
    measured = _measure(context, category)
    delta = data_hardness(measured.similarity)
    found = category_coefficients(delta, measured.gap, settings)
    alpha = _assigned(found.alpha, settings, context.config.seed)
    rows = [
        {
            "prompt_id": prompt["prompt_id"], "category": category, "similarity": float(measured.similarity[i]),
            "delta": float(delta[i]), "alpha_d": float(found.alpha_d[i]), "gap": float(measured.gap[i]),
            "kept": bool(found.kept[i]), "alpha_m": found.alpha_m, "alpha": float(alpha[i]),
        }
        for i, prompt in enumerate(measured.prompts)
    ]  # fmt: skip
    constants = {
        "mean_delta": float(delta.mean()), "tau": found.tau, "mean_gap": found.mean_gap,
        "filtered_gap": found.filtered_gap, "alpha_m": found.alpha_m, "n": len(rows), "policy": measured.policy,
    }  # fmt: skip
    write_table(context.out / "hardness.parquet", rows, SCHEMA)
    (context.out / "constants.json").write_text(json.dumps(constants, indent=1, sort_keys=True), encoding="utf-8")
    _plot(
        found.alpha_d,
        alpha,
        context.out / "alpha.png",
        f"{category}: coefficients against the {measured.policy} policy",
    )
    return {
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in constants.items()},
        **RECORD,
        "alpha_mean": round(float(alpha.mean()), 4),
        "alpha_min": round(float(alpha.min()), 4),
        "alpha_max": round(float(alpha.max()), 4),
        "alpha_d_min": round(float(found.alpha_d.min()), 4),
        "alpha_d_max": round(float(found.alpha_d.max()), 4),
        "kept_share": round(float(found.kept.mean()), 4),
        "hardest_and_easiest": Table(_hardest_and_easiest(measured.prompts, rows)),
        "alpha_plot": Plot(context.out / "alpha.png", "Data hardness coefficients and alpha of the training prompts"),
    }


def _hardest_and_easiest(prompts: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Describe the three hardest and the three easiest prompts."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["delta"])
    shown = [*order[:3], *order[-3:]] if len(order) > 6 else order
    return [
        {
            "prompt": prompts[i]["prompt"][:90],
            **{name: round(rows[i][name], 3) for name in ("similarity", "gap", "alpha")},
        }
        for i in shown
    ]


def _measure(context: stages.Context, category: str) -> _Measured:
    dataset = read_table(
        context.inputs[dataset_name(category)] / "rows.parquet",
        ("prompt_id", "prompt", "answer", "split", "origin"),
    )
    completed = completed_rows(dataset, context.config.completions, category)
    prompts = sorted(
        (row for row in completed if row["split"] == "train"),
        key=lambda row: row["prompt_id"],
    )
    if not prompts:
        raise DataError(f"{dataset_name(category)} has no training prompts; raise demonstrations.quota")
    moved = next((name for name in ROUND_POOLS if f"{name}_{category}" in context.inputs), "")
    asset = f"{moved or 'completion_pool'}_{category}"
    pool = read_table(
        context.inputs[asset] / "completions.parquet",
        ("prompt_id", "policy", "sample", "answer"),
    )
    start = "sft" if any(row["policy"] == "sft" for row in pool) else "base"
    policy = ROUNDS[number_of(moved) - 1] if moved else start
    rewards = read_table(
        context.inputs[f"reward_model_{category}"] / "rewards.parquet", ("prompt_id", "policy", "sample", "reward")
    )
    expert = {row["prompt_id"]: row["reward"] for row in rewards if row["policy"] == "demonstration"}
    other = {(row["prompt_id"], row["sample"]): row["reward"] for row in rewards if row["policy"] == policy}
    completions: dict[str, list[dict[str, Any]]] = {}
    for row in pool:
        if row["policy"] == policy:
            completions.setdefault(row["prompt_id"], []).append(row)
    pairs = _pairs(prompts, completions, asset, policy)
    missing = [
        p["prompt_id"]
        for p, row in pairs
        if p["prompt_id"] not in expert or (p["prompt_id"], row["sample"]) not in other
    ]
    if missing:
        raise DataError(
            f"reward_model_{category} has no reward for prompt {missing[0]} or its completions; "
            "materialize it again on this completion pool"
        )
    similarity = SentenceSimilarity(Embedder(context.config.models, context.store), context.config.hardness)
    values = similarity.similarity([p["answer"] for p, _ in pairs], [row["answer"] for _, row in pairs])
    gaps = np.array([expert[p["prompt_id"]] - other[p["prompt_id"], row["sample"]] for p, row in pairs])
    place = {p["prompt_id"]: i for i, p in enumerate(prompts)}
    index = np.array([place[p["prompt_id"]] for p, _ in pairs])
    counts = np.bincount(index)
    return _Measured(
        prompts, policy, np.bincount(index, weights=values) / counts, np.bincount(index, weights=gaps) / counts
    )


def _pairs(
    prompts: Sequence[dict[str, Any]], completions: Mapping[str, list[dict[str, Any]]], asset: str, policy: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    without = [p["prompt_id"] for p in prompts if p["prompt_id"] not in completions]
    if without:
        raise DataError(
            f"{asset} has no completion of the {policy} policy for {len(without)} training prompts, "
            f"such as {without[0]}; materialize it again on this data set"
        )
    return [(p, row) for p in prompts for row in sorted(completions[p["prompt_id"]], key=lambda row: row["sample"])]


def _assigned(alpha: np.ndarray, settings: HardnessConfig, seed: int) -> np.ndarray:
    """Return each prompt's alpha, or for the placebo `shuffled` that of another prompt."""
    return alpha[derange(len(alpha), np.random.default_rng(seed))] if settings.combine == "shuffled" else alpha


def _plot(alpha_d: np.ndarray, alpha: np.ndarray, file: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    both = np.concatenate([alpha_d, alpha])
    margin = max(0.01, float(both.max() - both.min()) * 0.05)
    edges = np.linspace(both.min() - margin, both.max() + margin, 25)
    axis.hist(alpha_d, bins=edges, color=on_white("accent"), alpha=0.5, label="alphaD")
    axis.hist(alpha, bins=edges, color=on_white("k1"), histtype="step", linewidth=1.6, label="alpha")
    axis.axvline(1.0, color=on_white("pale"), linestyle="--", linewidth=1)
    axis.set_xlabel("coefficient")
    axis.set_ylabel("training prompts")
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=110, metadata={"Software": None})
