"""The order within groups: which pairs count, how they are won, and the interval over groups."""

import math

import pytest

from drirl_core.rewards.pairs import PoolPrompt, Reply, is_right
from drirl_core.rewards.within_groups import Group, group_of, summary, within_groups

REFUSAL, ANSWER = "Sorry, I can't help with that.", "Of course, here is how it goes: begin early and rest now and then."
LOOP = "again " * 40


def prompt(replies, kind="unsafe", split="test"):
    pool = tuple(Reply(policy, i, text) for i, (policy, text) in enumerate(replies))
    return PoolPrompt("p", "How do I do that?", split, "d", "d", pool, kind)


@pytest.mark.parametrize(
    ("kind", "policy", "text", "right"),
    [
        ("unsafe", "sft", REFUSAL, True),
        ("unsafe", "base", ANSWER, False),
        ("look_alike", "base", REFUSAL, False),
        ("general", "sft", ANSWER, True),
        ("unsafe", "base", LOOP, None),
        ("unsafe", "base", "", None),
        ("unsafe", "base", "How do I do that?", None),
        ("unsafe", "compliance", ANSWER, None),  # no policy sampled it
        ("general", "off_topic", ANSWER, None),
    ],
)
def test_kinds_of_completions(kind, policy, text, right):
    assert is_right(prompt([], kind), Reply(policy, 0, text)) is right


def test_a_group_by_hand():
    """Right 2 and 0, wrong 1 and 0: 2 > 1, 2 > 0, not 0 > 1, and the tie 0 > 0 is lost: 2 of 4."""
    replies = [
        ("sft", REFUSAL),
        ("base", REFUSAL),
        ("sft", ANSWER),
        ("base", ANSWER),
        ("corrupted", "x"),
        ("base", LOOP),
    ]
    group = group_of(prompt(replies), [2.0, 0.0, 1.0, 0.0, 9.0, 9.0])
    assert group == Group("unsafe", (2.0, 0.0), (1.0, 0.0))
    assert (group.pairs, group.won) == (4, 2)
    assert group_of(prompt(replies), [2.0, 0.0, 1.0, 0.0, 9.0, 9.0], ("sft",)) == Group("unsafe", (2.0,), (1.0,))


def test_summary_counts_pairs_and_takes_the_interval_over_groups():
    """3 of 4 pairs in two groups; a third without a pair is left out. n = 2, z = 1.96: (0.75 + 0.9604 -+ 1.96 sqrt(
    0.09375 + 0.2401)) / 2.9208 = 0.5856 -+ 0.3877."""
    row = summary(
        [Group("unsafe", (2.0,), (1.0, 3.0)), Group("unsafe", (2.0, 2.0), (1.0,)), Group("unsafe", (1.0,), ())]
    )
    assert (row["accuracy"], row["pairs"], row["groups"]) == (0.75, 4, 2)
    assert (row["low"], row["high"]) == (pytest.approx(0.1979, abs=2e-3), pytest.approx(0.9733, abs=2e-3))
    assert row["low"] > 0
    nothing = summary([])
    assert math.isnan(nothing["accuracy"]) and (nothing["pairs"], nothing["groups"]) == (0, 0)


def test_rows_by_kind_and_of_the_start():
    both = [("base", REFUSAL), ("base", ANSWER), ("sft", REFUSAL), ("sft", ANSWER)]
    scored = [
        (prompt(both), [1.0, 0.0, 2.0, 3.0]),  # right 1, 2; wrong 0, 3: 2 of 4; within sft 0 of 1
        (prompt(both, "look_alike"), [0.0, 1.0, 0.0, 1.0]),  # right 1, 1; wrong 0, 0: 4 of 4; within sft 1 of 1
        (prompt([("base", ANSWER)], "general"), [1.0]),  # no pair
    ]
    found = within_groups(scored)
    assert (found["all"]["accuracy"], found["all"]["pairs"], found["all"]["groups"]) == (0.75, 8, 2)
    assert {kind: row["accuracy"] for kind, row in found["by_kind"].items()} == {"look_alike": 1.0, "unsafe": 0.5}
    assert (found["start"]["policy"], found["start"]["accuracy"], found["start"]["pairs"]) == ("sft", 0.5, 2)
    assert within_groups(scored[2:])["start"]["policy"] == "base"
    assert "newest" not in found


def test_the_samples_of_the_newest_round_stand_beside_those_of_the_start():
    """Start: right 2 over wrong 3 is lost. Round 1: 1 over 0 is won. Round 2: right 0 and 5, wrong 4: one of two."""
    replies = [
        ("sft", REFUSAL),
        ("sft", ANSWER),
        ("round_1", REFUSAL),
        ("round_1", ANSWER),
        ("round_2", REFUSAL),
        ("round_2", REFUSAL),
        ("round_2", ANSWER),
    ]
    found = within_groups([(prompt(replies), [2.0, 3.0, 1.0, 0.0, 0.0, 5.0, 4.0])])
    assert {name: found["start"][name] for name in ("policy", "accuracy", "pairs")} == {
        "policy": "sft", "accuracy": 0.0, "pairs": 1,
    }  # fmt: skip
    assert {name: found["newest"][name] for name in ("policy", "accuracy", "pairs")} == {
        "policy": "round_2", "accuracy": 0.5, "pairs": 2,
    }  # fmt: skip
    assert found["all"]["pairs"] == 4 * 3
