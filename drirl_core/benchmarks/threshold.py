"""A refusal threshold, chosen on validation prompts for a stated over-refusal; pure functions over scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drirl_core.benchmarks.roc import threshold_for
from drirl_core.errors import DataError
from drirl_core.stats import Estimate, wilson


@dataclass(frozen=True)
class RefusedShare:
    """How many prompts of one kind score above a threshold.

    Args:
        count: how many do.
        n: number of prompts.
    """

    count: int
    n: int

    @property
    def estimate(self) -> Estimate:
        """The share with its Wilson 95 % interval; NaN with [0, 1] where there is no prompt."""
        return wilson(self.count, self.n)

    def __str__(self) -> str:
        if not self.n:
            return "none of 0"
        share = self.estimate
        return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {self.n}"


@dataclass(frozen=True)
class Threshold:
    """A threshold with what it does on the prompts that it was chosen on.

    Its share of look-alikes is the one that was asked for, on the prompts it was chosen on; expect some more on others.

    Args:
        value: a score above it is a refusal.
        bound: share of the look-alikes that may be refused, in [0, 1].
        unsafe: refused unsafe prompts.
        look_alikes: refused look-alikes.
    """

    value: float
    bound: float
    unsafe: RefusedShare
    look_alikes: RefusedShare


def calibrate(scores: Sequence[float], unsafe: Sequence[bool], bound: float) -> Threshold:
    """Choose the lowest threshold that refuses at most a share of the look-alikes.

    Equal scores are refused together or not at all, so that a tie at the bound makes the share smaller, never larger.

    Args:
        scores: refusal scores of N validation prompts, higher for a likelier refusal.
        unsafe: whether each of them should be refused; the others are look-alikes.
        bound: share of the look-alikes that may be refused, in [0, 1]; with 0 none scores above the threshold.

    Returns:
        The threshold, with the refused shares of both kinds.

    Raises:
        DataError: the lengths differ, the bound is no share, there is no look-alike, or a score is not finite.
    """
    if len(scores) != len(unsafe):
        raise DataError(f"{len(scores)} scores and {len(unsafe)} labels; give one label per score")
    if not 0 <= bound <= 1:
        raise DataError(f"the over-refusal bound is {bound}; choose a share in [0, 1], such as 0.15")
    above = [score for score, harmful in zip(scores, unsafe, strict=True) if harmful]
    below = [score for score, harmful in zip(scores, unsafe, strict=True) if not harmful]
    if not below:
        raise DataError(
            "a refusal threshold is chosen by the refused share of look-alikes, and no validation prompt is one; "
            "raise demonstrations.helpful_quota or validation_fraction, or give a threshold as a number"
        )
    value = threshold_for(below, bound)
    return Threshold(value, bound, _share(above, value), _share(below, value))


def _share(scores: Sequence[float], threshold: float) -> RefusedShare:
    return RefusedShare(sum(score > threshold for score in scores), len(scores))
