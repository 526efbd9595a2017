"""Best-of-N: expected rewards by hand, the choice, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from drirl_core.errors import ConfigError, DataError
from drirl_core.models.sampling import Completion
from drirl_core.policy.best_of_n import BestOfN, Choice, category_by_router, load_reranking
from drirl_core.store.tables import write_table

REWARDS = {
    ("insult", "No."): 2.0, ("insult", "Sure."): -1.0, ("fraud", "No."): 4.0, ("fraud", "Sure."): 0.0,
    ("helpful", "No."): -3.0, ("helpful", "Sure."): 1.0,
}  # fmt: skip
CATEGORIES = {"unsafe": "insult", "safe": "fraud"}
UNSAFE = {"unsafe": 0.9, "safe": 0.25}


class Rewards:
    """Rewards of two answers by category."""

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        assert len(prompts) == len(completions) == len(categories)
        return np.array([REWARDS[pair] for pair in zip(categories, completions, strict=True)])


@pytest.fixture
def chooser() -> BestOfN:
    return BestOfN(
        Rewards(),  # type: ignore[arg-type]
        lambda prompts: [CATEGORIES[prompt] for prompt in prompts],
        lambda prompts: np.array([UNSAFE[prompt] for prompt in prompts]),
    )


def test_expected_rewards_by_hand(chooser: BestOfN) -> None:
    """Unsafe with .9: No. .9 x 2 - .1 x 3 = 1.5, Sure. -.9 + .1 = -.8. With .25: 1 - 2.25 = -1.25, and 0 + .75."""
    first, second = chooser.expected(["unsafe", "safe"], [["No.", "Sure."], ["Sure.", "No.", "Sure."]])
    assert first == pytest.approx([1.5, -0.8])
    assert second == pytest.approx([0.75, -1.25, 0.75])


def test_the_best_is_chosen_and_of_equal_ones_the_first(chooser: BestOfN) -> None:
    texts = [["Sure.", "No."], ["No.", "Sure.", "Sure."]]
    rewards = chooser.expected(["unsafe", "safe"], texts)
    samples = [[Completion(text, number, True) for number, text in enumerate(own)] for own in texts]
    choices = [Choice(*one) for one in zip(samples, rewards, strict=True)]
    assert [choice.place for choice in choices] == [1, 1]
    assert [choice.best for choice in choices] == [samples[0][1], samples[1][1]]


def test_a_draft_is_no_part_of_what_is_rewarded(chooser: BestOfN) -> None:
    assert chooser.expected(["unsafe"], [["think\n####\nNo."]])[0] == pytest.approx([1.5])


@pytest.mark.parametrize("completions", [[["No."]], [["No."], []]])
def test_a_prompt_without_a_completion_is_refused(chooser: BestOfN, completions: list[list[str]]) -> None:
    with pytest.raises(DataError, match="2 prompts, and completions for 1"):
        chooser.expected(["unsafe", "safe"], completions)


def test_one_sample_is_no_choice() -> None:
    with pytest.raises(ConfigError, match="--best-of 1: give at least 2"):
        load_reranking(None, 1, None)  # type: ignore[arg-type]


def test_categories_that_no_router_can_tell_apart_are_refused_with_a_way_out(tmp_path: Path) -> None:
    columns = pa.schema([(name, pa.string()) for name in ("prompt", "category", "labelled_by")])
    rows = [{"prompt": f"p{n}", "category": "insult", "labelled_by": "source"} for n in range(3)]
    write_table(tmp_path / "prompts.parquet", rows, columns)
    with pytest.raises(DataError, match=r"needs a router, .*insult 3; .*or take best_of_n out of baselines"):
        category_by_router(tmp_path, ("insult", "theft"), None, 0)
    assert category_by_router(tmp_path, ("insult",), None, 0)(["a", "b"]) == ["insult", "insult"]
