"""Which prompts of a data set get completions: all of them, or a limited number per category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import CompletionsConfig, Config
from drirl_core.store.tables import first_by_hash

_HELD_OUT_SHARE = 0.25
"""Validation prompts, and test prompts, per training prompt."""


def completed_rows(rows: Sequence[dict[str, Any]], settings: CompletionsConfig, category: str) -> list[dict[str, Any]]:
    """Choose the prompts that get completions, by the hash of their ids, so that one more prompt moves one at most.

    Args:
        rows: rows of a data set with `prompt_id`, `split` and `origin`; resampled copies are left out.
        settings: training prompts per harm category and of the helpful set; a quarter as many validation and test
            prompts each; 0 takes all.
        category: whose data set it is.

    Returns:
        The chosen rows in their order.
    """
    originals = [row for row in rows if row["origin"] != "resampled"]
    most = _most_per_split(settings, category)
    if not most:
        return originals
    by_split: dict[str, list[str]] = {}
    for row in originals:
        by_split.setdefault(row["split"], []).append(row["prompt_id"])
    chosen: set[str] = set()
    for split, ids in by_split.items():
        chosen |= set(first_by_hash(ids, most.get(split, 0)))
    return [row for row in originals if row["prompt_id"] in chosen]


def most_completed(config: Config, category: str) -> int:
    """Return how many prompts of a category get completions at most; 0 if all of them do."""
    return sum(_most_per_split(config.completions, category).values())


def _most_per_split(settings: CompletionsConfig, category: str) -> dict[str, int]:
    """Return the limit of each split; nothing where there is none."""
    most = settings.helpful_prompts if category == taxonomy.HELPFUL else settings.prompts
    held_out = max(1, round(most * _HELD_OUT_SHARE))
    return {"train": most, "validation": held_out, "test": held_out} if most else {}
