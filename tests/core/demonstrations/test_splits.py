"""Splits keep near-duplicates together; resampling is even and repeatable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.demonstrations.splits import assign_splits, hash_order, held_out_sizes, hold_out_style, resample
from drirl_core.errors import DataError

GROUPS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=3, max_size=60).filter(lambda g: len(set(g)) >= 3)
FRACTION = st.floats(0.01, 0.44)


@given(GROUPS, FRACTION, FRACTION, st.integers(0, 1000))
def test_each_group_is_in_one_split_and_no_split_is_empty(
    groups: list[str], validation: float, test: float, seed: int
) -> None:
    split = assign_splits(groups, validation, test, seed)
    assert split.keys() == set(groups)
    assert set(split.values()) == {"train", "validation", "test"}
    assert split == assign_splits(reversed(groups), validation, test, seed)


@given(GROUPS, FRACTION, FRACTION, st.integers(0, 10), st.data())
def test_pinned_groups_are_trained_on(
    groups: list[str], validation: float, test: float, seed: int, data: st.DataObject
) -> None:
    distinct = sorted(set(groups))
    pinned = frozenset(data.draw(st.sets(st.sampled_from(distinct), max_size=len(distinct) - 2)))
    split = assign_splits(groups, validation, test, seed, train_only=pinned)
    assert {split[group] for group in pinned} <= {"train"}
    assert set(split.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(("groups", "expected"), [(3, (1, 1)), (10, (1, 1)), (60, (6, 6)), (64, (6, 6)), (65, (7, 7))])
def test_sizes_by_hand(groups: int, expected: tuple[int, int]) -> None:
    """A tenth of 64 groups is 6.4, of 65 groups 6.5, rounded up; of 3 groups each split gets one."""
    assert held_out_sizes(groups, 0.1, 0.1) == expected


def test_large_fractions_leave_a_group_for_training() -> None:
    """0.44 of 4 groups rounds to 2 and 2; one of them goes back to training."""
    assert sorted(held_out_sizes(4, 0.44, 0.44)) == [1, 2]


def test_a_seed_gives_another_split() -> None:
    groups = [str(i) for i in range(100)]
    assert assign_splits(groups, 0.1, 0.1, 0) != assign_splits(groups, 0.1, 0.1, 1)
    assert hash_order(0, "a") != hash_order(1, "a")


@pytest.mark.parametrize(
    ("groups", "pinned"), [([], ()), (["a", "b"], ()), (["a", "a", "b"], ()), (["a", "b", "c"], ("a", "b"))]
)
def test_too_few_groups_are_an_error(groups: list[str], pinned: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="cannot fill train, validation and test"):
        assign_splits(groups, 0.1, 0.1, 0, train_only=frozenset(pinned))


def rows(*groups: str) -> list[dict[str, str]]:
    return [{"prompt_id": f"p{i}", "group_id": group} for i, group in enumerate(groups)]


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 100))
def test_no_row_is_drawn_twice_before_every_row_was_drawn(size: int, n: int, seed: int) -> None:
    drawn = resample(rows(*map(str, range(size))), n, seed)
    assert len(drawn) == n
    counts = Counter(row["prompt_id"] for row in drawn)
    assert max(counts.values(), default=0) - (min(counts.values()) if len(counts) == size else 0) <= 1
    assert drawn == resample(rows(*map(str, range(size)))[::-1], n, seed)


def test_a_large_group_is_drawn_less() -> None:
    """Four rows of one group have weight 1/4 each, the lone row 1: it is drawn first with probability 1/2, not 1/5."""
    first = Counter(
        resample(rows("crowd", "crowd", "crowd", "crowd", "lone"), 1, seed)[0]["group_id"] for seed in range(400)
    )
    assert 150 <= first["lone"] <= 250  # mean 200, standard deviation 10


def test_nothing_to_draw_from_gives_nothing() -> None:
    assert resample([], 5, 0) == []


def styled(style: str, split: str, group: str, origin: str = "pool") -> dict[str, str]:
    return {"style": style, "split": split, "group_id": group, "origin": origin}


def test_a_style_is_held_out_with_what_resembles_its_rows() -> None:
    """Of six rows of other styles one is for test, one for validation, and one shares a group with a held-out row."""
    curt = [styled("curt", "train", "a"), styled("curt", "validation", "b"), styled("curt", "test", "c")]
    others = [
        styled("formal", "train", "d"),
        styled("formal", "train", "d", "resampled"),
        styled("", "train", "e"),
        styled("formal", "train", "b"),
        styled("formal", "validation", "f"),
        styled("formal", "test", "g"),
    ]
    fold = hold_out_style([*curt, styled("curt", "train", "a", "resampled"), *others], "curt")
    assert fold.train == tuple(others[:3])
    assert fold.unseen == tuple(curt[:2])
    assert fold.seen == (others[4],)


@pytest.mark.parametrize("style", ["kurt", "", "lost"])
def test_a_style_that_does_not_exist_cannot_be_held_out(style: str) -> None:
    given = [styled("curt", "train", "a"), styled("lost", "test", "b"), styled("", "train", "c")]
    with pytest.raises(DataError, match=r"no row outside the test split has the style .*Known: curt"):
        hold_out_style(given, style)
