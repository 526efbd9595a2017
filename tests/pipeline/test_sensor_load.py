"""Many sensor ticks and dropped files: each file once, each change once, no more runs than changes."""

import json

import pytest

from benchmarks.sensor_load import run_load, violations


def _without_violations(folder, ticks, files, seed):
    figures = run_load(folder, ticks, files, seed)
    print(json.dumps(figures, indent=1))

    assert violations(figures) == []
    return figures


@pytest.mark.long
def test_forty_ticks_and_eight_files_lose_and_double_nothing(tmp_path):
    figures = _without_violations(tmp_path, ticks=40, files=8, seed=1)

    assert sum(figures["ticks"].values()) >= 40
    assert figures["accepted_files"] >= 3
    assert figures["runs"]["prompt_pool"] >= 2


@pytest.mark.slow
def test_a_thousand_ticks_and_fifty_files_lose_and_double_nothing(tmp_path):
    figures = _without_violations(tmp_path, ticks=1000, files=50, seed=0)

    assert figures["runs_failed"] >= 1
    assert figures["rejected_files"] >= 5
    assert figures["lost_ticks"] >= 10
    assert min(figures["actions"].values()) >= 1
