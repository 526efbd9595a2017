"""What the numbers that stages report mean, in words and rounded, for names that mean the same in every stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST = 3
"""Key figures of an artifact."""


@dataclass(frozen=True)
class Figure:
    """How a reported number is shown.

    Args:
        words: what it is.
        unit: written after it; `%` turns a share into per cent.
        interval: names of the numbers that are its lower and upper end.
    """

    words: str
    unit: str = ""
    interval: tuple[str, str] | None = None


FIGURES: Mapping[str, Figure] = {
    "headline": Figure("what the paired test says"),
    "refusal/dr_irl": Figure("unsafe prompts that DR-IRL refuses", "%"),
    "over_refusal/dr_irl": Figure("safe look-alikes that DR-IRL refuses", "%"),
    "helpful_correct/dr_irl": Figure("helpful questions that DR-IRL answers right", "%"),
    "refusal": Figure("unsafe prompts refused", "%"),
    "over_refusal": Figure("safe look-alikes refused", "%"),
    "helpful_correct": Figure("helpful questions answered right", "%"),
    "first_reward": Figure("mean reward in the first step"),
    "last_reward": Figure("mean reward in the last fifth of the steps"),
    "kl": Figure("KL to the start in the last fifth of the steps", "nats per token"),
    "within_group": Figure(
        "right order within groups of the policy's own samples", "%", ("within_group_low", "within_group_high")
    ),
    "refused_unsafe": Figure("sampled completions of unsafe prompts that refuse", "%"),
    "refused_look_alike": Figure("sampled completions of look-alikes that refuse", "%"),
    "accuracy": Figure("held-out pairs won by the demonstration", "%"),
    "ece": Figure("expected calibration error"),
    "alpha_mean": Figure("mean alpha"),
    "alpha_min": Figure("smallest alpha"),
    "alpha_max": Figure("largest alpha"),
    "first_loss": Figure("loss in the first step"),
    "last_loss": Figure("loss in the last step"),
    "expected_reward": Figure("mean expected reward of the chosen completions"),
    "expected_reward_of_all": Figure("mean expected reward of all samples"),
    "token_accuracy": Figure("tokens predicted right in the last step", "%"),
    "floor_validation_auc": Figure("AUC of the floor on validation prompts"),
    "ceiling_validation_auc": Figure("AUC of the ceiling on validation prompts"),
    "layer": Figure("layer that the ceiling reads"),
    "sampled": Figure("completions sampled"),
    "contrast": Figure("completions made to contrast"),
    "finished_share": Figure("completions that ended by themselves", "%"),
    "imbalance_ratio_before": Figure("largest category over smallest, before balancing"),
    "imbalance_ratio_after": Figure("largest category over smallest, after balancing"),
    "kept": Figure("prompts kept"),
    "rows": Figure("rows"),
    "train": Figure("rows for training"),
    "quarantined": Figure("rows in quarantine"),
    "router_accuracy": Figure("prompts that the category router places right", "%"),
    "policy": Figure("version of the policy"),
}
"""Figures by the name under which stages report them, the most telling first."""

_COSTS = ("seconds", "tokens")


def key_figures(reported: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Choose the figures that say most about an artifact.

    Args:
        reported: what its stage reported; values other than numbers and texts are passed over.

    Returns:
        At most `MOST` pairs of words and rounded value: those that have a meaning here, in its order, then, for a stage
        whose numbers have none yet, the first ones under their own names.
    """
    plain = {name: value for name, value in reported.items() if isinstance(value, int | float | str)}
    known = [name for name in FIGURES if name in plain]
    others = [
        name
        for name, value in plain.items()
        if name not in FIGURES and not isinstance(value, bool | str) and not name.startswith(("dagster/", *_COSTS))
    ]
    chosen = known or others
    return [(_words(name), _written(name, plain)) for name in chosen[:MOST]]


def rounded(value: float, unit: str = "") -> str:
    """Write a number for reading: integers in full, others to three digits, shares in per cent.

    Args:
        value: the number.
        unit: written after it; `%` for a share.
    """
    if not math.isfinite(value):
        return "not known"
    if unit == "%":
        return f"{100 * value:.1f} %"
    shown = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{shown} {unit}".rstrip()


def _words(name: str) -> str:
    return FIGURES[name].words if name in FIGURES else name.replace("_", " ").replace("/", ", ")


def _written(name: str, reported: Mapping[str, Any]) -> str:
    value, figure = reported[name], FIGURES.get(name, Figure(name))
    if isinstance(value, str):
        return value
    text = rounded(value, figure.unit)
    ends = [reported.get(end) for end in figure.interval or ()]
    if figure.unit == "%" and ends and all(isinstance(end, int | float) for end in ends):
        text += f" [{', '.join(f'{100 * end:.0f}' for end in ends)}]"  # type: ignore[operator]
    return text
