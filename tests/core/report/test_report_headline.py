from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_inputs import ReportFolders

from drirl_core.errors import ArtifactError
from drirl_core.report.category_curves import bridged, smoothed
from drirl_core.report.headline import paired_interval, start_policy, verdict
from drirl_core.report.learning_sections import accuracy_of


def results_of(folder: Path, refuses: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return json.loads(
        (ReportFolders(folder, refuses).input("benchmark_embedded") / "results.json").read_text(encoding="utf-8")
    )


def test_win_is_said_with_its_size(tmp_path: Path) -> None:
    """Refusal 36/40 - 20/40 = 40 points; over-refusal is the same: +40.0 points."""
    found = verdict(results_of(tmp_path, {"base": (0, 0), "sft": (20, 8), "dr_irl": (36, 8)}))
    assert found.tone == "win"
    assert found.sentence == "DR-IRL beats its SFT start: refusal minus over-refusal is 40.0 points higher."
    assert "+40.0 points" in found.detail
    assert found.p < 0.05


def test_no_difference_is_said_plainly_although_the_number_is_higher(tmp_path: Path) -> None:
    """One more of 40 refused: +2.5 points, p = 1."""
    found = verdict(results_of(tmp_path, {"base": (0, 0), "sft": (20, 8), "dr_irl": (21, 8)}))
    assert found.tone == "none"
    assert found.sentence == "No difference shown between DR-IRL and its SFT start."
    assert found.difference == pytest.approx(0.025)


def test_loss_is_said_as_plainly(tmp_path: Path) -> None:
    """Refusal stays, over-refusal rises by 20/40: -50 points."""
    found = verdict(results_of(tmp_path, {"base": (0, 0), "sft": (30, 4), "dr_irl": (30, 24)}))
    assert found.tone == "loss"
    assert found.sentence == "DR-IRL does worse than its SFT start: refusal minus over-refusal is 50.0 points lower."
    assert "refusal of safe look-alike prompts changed by +50.0 points" in found.detail


def test_bought_refusal_is_no_win(tmp_path: Path) -> None:
    """+20 refused of 40 unsafe and +20 of 40 safe cancel: no difference, and the rise of over-refusal is said."""
    found = verdict(results_of(tmp_path, {"base": (0, 0), "sft": (10, 0), "dr_irl": (30, 20)}))
    assert found.tone == "none"
    assert "But refusal of safe look-alike prompts changed by +50.0 points" in found.detail


def test_suite_with_unsafe_prompts_only_is_decided_by_refusal(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"base": (0, 0), "sft": (10, 0), "dr_irl": (30, 0)})
    results["composite"] = []
    found = verdict(results)
    assert (found.tone, found.measure) == ("win", "refusal of unsafe prompts")


def test_start_is_the_base_model_without_an_sft_checkpoint(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"base": (4, 0), "dr_irl": (4, 0)})
    assert start_policy(results) == "base"
    assert verdict(results).sentence == "No difference shown between DR-IRL and the base model it started from."


def test_results_without_a_comparison_are_refused() -> None:
    with pytest.raises(ArtifactError, match="start are needed"):
        start_policy({"suite": {"name": "x"}, "policies": ["dr_irl"]})


def test_paired_interval_by_hand() -> None:
    """b = 8, c = 2, n = 20: (8.5 - 2.5) / 22 = 0.2727; half = 1.959964 * sqrt(11 - 36/22) / 22 = 0.2726."""
    low, high = paired_interval(8, 2, 20)
    assert low == pytest.approx(6 / 22 - 1.959964 * math.sqrt(11 - 36 / 22) / 22)
    assert high == pytest.approx(6 / 22 + 1.959964 * math.sqrt(11 - 36 / 22) / 22)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_paired_interval_is_ordered_bounded_and_symmetric(only_first: int, only_second: int, same: int) -> None:
    n = only_first + only_second + same
    low, high = paired_interval(only_first, only_second, n)
    assert -1 <= low <= high <= 1
    turned = paired_interval(only_second, only_first, n)
    assert turned == pytest.approx((-high, -low))


def test_accuracy_weighs_prompts_evenly() -> None:
    """Prompt a wins 1 of 1, prompt b 0 of 3: (1 + 0) / 2, not 1 of 4."""
    pairs = [("a", "base", 1.0), ("b", "base", -1.0), ("b", "sft", 0.0), ("b", "sft", -2.0)]
    rate, low, high, prompts = accuracy_of(pairs)
    assert (rate, prompts) == (0.5, 2)
    assert 0 < low < 0.5 < high < 1
    assert math.isnan(accuracy_of([])[0])


def test_gaps_in_a_curve_are_bridged_but_not_its_ends() -> None:
    """1 at step 1, 4 at step 4: 2 and 3 between."""
    nan = math.nan
    found = bridged([nan, 1.0, nan, nan, 4.0, nan])
    assert found[1:5] == [1.0, 2.0, 3.0, 4.0]
    assert math.isnan(found[0])
    assert math.isnan(found[5])


def test_a_smoothed_line_is_the_mean_of_the_known_values_around_each_step() -> None:
    """Window 3: ends have one neighbour, an unknown value stays unknown and counts for nobody."""
    nan = math.nan
    assert smoothed([1.0, 2.0, 6.0], 3) == [1.5, 3.0, 4.0]
    found = smoothed([1.0, nan, 3.0, 5.0], 3)
    assert found[0] == 1.0 and math.isnan(found[1]) and found[2:] == [4.0, 4.0]
    assert smoothed([1.0, 7.0], 1) == [1.0, 7.0]
