"""How often a reward model orders completions as people labelled them."""

from __future__ import annotations

from collections.abc import Sequence

from drirl_core.rewards.evaluate import share
from drirl_core.rewards.labels.items import LabelledItem
from drirl_core.rewards.model import RewardModel, require_finite


def label_agreement(model: RewardModel, items: Sequence[LabelledItem]) -> dict[str, dict[str, float | int]]:
    """Compare rewards of right completions with those of wrong ones of the same item.

    Args:
        model: the model.
        items: labelled completions; those with one side only have no pair.

    Returns:
        By `train` (it learned from these) and `held_out`: `n` pairs, `accuracy` (NaN without any), `low` and `high`.

    Raises:
        TrainingError: a reward is not finite.
    """
    prompts = [item.prompt for item in items for _ in item.answers]
    values = model.rewards(prompts, [answer for item in items for answer in item.answers])
    require_finite(values, [model.category] * len(values))
    won: dict[str, list[bool]] = {"train": [], "held_out": []}
    start = 0
    for item in items:
        middle, end = start + len(item.right), start + len(item.answers)
        pairs = [bool(a > b) for a in values[start:middle] for b in values[middle:end]]
        won["train" if item.split == "train" else "held_out"] += pairs
        start = end
    return {name: share(outcomes) for name, outcomes in won.items()}
