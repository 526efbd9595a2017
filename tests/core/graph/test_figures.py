"""Key figures of an artifact: the most telling numbers, in words and rounded."""

from __future__ import annotations

import math

import pytest

from drirl_core.graph.figures import FIGURES, key_figures, rounded


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.14285, "%", "14.3 %"),
        (1, "%", "100.0 %"),
        (1400, "", "1,400"),
        (12345.6, "", "12,346"),
        (0.123456, "nats per token", "0.123 nats per token"),
        (-2, "", "-2"),
        (0.0, "", "0"),
        (math.nan, "%", "not known"),
        (math.inf, "", "not known"),
    ],
)
def test_numbers_are_rounded_for_reading(value: float, unit: str, written: str) -> None:
    assert rounded(value, unit) == written


def test_the_most_telling_figures_come_first_whatever_the_order_of_the_stage() -> None:
    reported = {
        "steps": 24, "mean_length": 20.5, "kl": 0.08154, "last_reward": 1.2345, "tokens": 99999, "first_reward": -0.5,
        "curves": object(), "seconds": 12.5,
    }  # fmt: skip
    assert key_figures(reported) == [
        ("mean reward in the first step", "-0.5"),
        ("mean reward in the last fifth of the steps", "1.23"),
        ("KL to the start in the last fifth of the steps", "0.0815 nats per token"),
    ]


def test_a_share_has_its_interval_where_the_stage_reports_one() -> None:
    reported = {"within_group": 0.912, "within_group_low": 0.85, "within_group_high": 0.95}
    words = "right order within groups of the policy's own samples"
    assert key_figures(reported) == [(words, "91.2 % [85, 95]")]
    assert key_figures({"within_group": 0.912}) == [(words, "91.2 %")]


def test_a_stage_whose_numbers_are_not_known_here_shows_its_first_ones_under_their_names() -> None:
    reported = {"note": "x", "ready": True, "echo_count": 7, "seconds": 1.0, "loud/mean": 0.25, "a": 1, "b": 2}
    assert key_figures(reported) == [("echo count", "7"), ("loud, mean", "0.25"), ("a", "1")]
    assert key_figures({"note": "x", "seconds": 3.0}) == []


def test_words_are_no_identifiers() -> None:
    assert [figure.words for figure in FIGURES.values() if "_" in figure.words] == []
