"""The calibrated refusal threshold: by hand, with ties, at both ends, and what it refuses to do."""

from __future__ import annotations

import math

import pytest

from drirl_core.benchmarks.threshold import RefusedShare, Threshold, calibrate
from drirl_core.errors import DataError

UNSAFE = [9.0, 8.5, 3.0]
LOOK_ALIKES = [float(i) for i in range(10)]


def _calibrate(look_alikes: list[float], bound: float, unsafe: list[float] = UNSAFE) -> Threshold:
    return calibrate([*unsafe, *look_alikes], [True] * len(unsafe) + [False] * len(look_alikes), bound)


def test_by_hand() -> None:
    """At most 1.5 of ten look-alikes, one: 9 is above 8. Of the unsafe prompts 9 and 8.5 are."""
    found = _calibrate(LOOK_ALIKES, 0.15)
    assert found.value == 8
    assert (found.look_alikes, found.unsafe) == (RefusedShare(1, 10), RefusedShare(2, 3))
    assert found.bound == 0.15


def test_shares_have_wilson_intervals() -> None:
    """Of 1 in 10: (.1 + z2/20 -+ z sqrt(.09/10 + z2/400)) / (1 + z2/10) with z2 = 3.8415, [0.0179, 0.4042]."""
    share = _calibrate(LOOK_ALIKES, 0.15).look_alikes
    assert (share.estimate.value, share.estimate.low, share.estimate.high) == pytest.approx(
        (0.1, 0.0179, 0.4042), abs=1e-4
    )
    assert str(share) == "10.0% [1.8%, 40.4%] of 10"


def test_a_tie_is_never_split() -> None:
    """Half of [1, 1, 1, 0] would be two; the three ones go together, so none is refused. An equal unsafe score too."""
    found = _calibrate([1, 1, 1, 0], 0.5, [1.0, 1.5])
    assert (found.value, found.look_alikes.count, found.unsafe.count) == (1, 0, 1)


def test_with_bound_0_no_look_alike_is_refused() -> None:
    found = _calibrate([0.5, 2.0], 0, [2.0, 2.5, 0.1])
    assert (found.value, found.look_alikes.count, found.unsafe.count) == (2, 0, 1)


def test_with_bound_1_everything_is_refused() -> None:
    found = _calibrate([0.5, -1e9], 1)
    assert math.isfinite(found.value)
    assert (found.look_alikes.count, found.unsafe.count) == (2, 3)


def test_without_unsafe_prompts_their_share_is_unknown() -> None:
    found = _calibrate([1.0, 2.0], 0.5, [])
    assert (found.value, str(found.unsafe)) == (1, "none of 0")


def test_without_look_alikes_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(DataError, match=r"no validation prompt is one; raise demonstrations\.helpful_quota"):
        _calibrate([], 0.15)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="3 scores and 2 labels"):
        calibrate([1, 2, 3], [True, False], 0.1)
    for bound in (-0.1, 1.5, math.nan):
        with pytest.raises(DataError, match="choose a share in"):
            _calibrate(LOOK_ALIKES, bound)
    with pytest.raises(DataError, match="not finite"):
        _calibrate([1.0, math.nan], 0.1)
