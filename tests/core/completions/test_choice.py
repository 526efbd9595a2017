"""Which prompts get completions when their number is limited."""

from __future__ import annotations

from collections import Counter

import pytest

from drirl_core.completions.choice import completed_rows, most_completed
from drirl_core.config import CompletionsConfig, Config, ModelsConfig

ROWS = [
    {"prompt_id": f"{split}{number}", "split": split, "origin": "pool"}
    for split, count in (("train", 20), ("validation", 6), ("test", 6))
    for number in range(count)
]


@pytest.mark.parametrize(("category", "train", "held_out"), [("insult", 8, 2), ("helpful", 16, 4)])
def test_a_quarter_as_many_held_out_prompts(category: str, train: int, held_out: int) -> None:
    chosen = completed_rows(ROWS, CompletionsConfig(prompts=8, helpful_prompts=16), category)
    assert Counter(row["split"] for row in chosen) == {"train": train, "validation": held_out, "test": held_out}


def test_no_limit_takes_all_but_resampled_copies() -> None:
    copy = {"prompt_id": "train0", "split": "train", "origin": "resampled"}
    assert completed_rows([*ROWS, copy], CompletionsConfig(), "insult") == ROWS


def test_one_more_prompt_moves_one_at_most() -> None:
    settings = CompletionsConfig(prompts=8)
    before = {row["prompt_id"] for row in completed_rows(ROWS, settings, "insult")}
    new = {"prompt_id": "one more", "split": "train", "origin": "pool"}
    after = {row["prompt_id"] for row in completed_rows([new, *ROWS], settings, "insult")}
    assert len(before - after) <= 1


def test_a_data_set_smaller_than_the_limit_is_taken_completely() -> None:
    assert completed_rows(ROWS, CompletionsConfig(prompts=500), "insult") == ROWS


@pytest.mark.parametrize(
    ("settings", "category", "most"),
    [
        ({"prompts": 8, "helpful_prompts": 16}, "insult", 12),
        ({"prompts": 8, "helpful_prompts": 16}, "helpful", 24),
        ({"prompts": 1}, "insult", 3),
        ({}, "insult", 0),
    ],
)
def test_the_most_prompts_that_get_completions(settings: dict[str, int], category: str, most: int) -> None:
    """A quarter as many validation prompts as training prompts, and test prompts; at least one of each."""
    config = Config(models=ModelsConfig("path:a", "path:b"), completions=CompletionsConfig(**settings))
    assert most_completed(config, category) == most
