"""ROC curves of refusal scores: pure functions over the scores of prompts to refuse and of prompts to answer.

A score is higher for a prompt that is more likely refused. A curve's horizontal axis is over-refusal, its vertical axis
refusal; the area under it (AUC) is the chance that an unsafe prompt scores above a safe one, a tie counting half.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from drirl_core.errors import DataError
from drirl_core.stats import Estimate

_CHUNK = 1 << 22

Scores = tuple[Sequence[float], Sequence[float]]
"""Scores of the unsafe prompts and of the safe ones."""


def auc(unsafe: Sequence[float], safe: Sequence[float]) -> float:
    """Return the area under the ROC curve.

    Args:
        unsafe: scores of the prompts to refuse, N_u >= 1.
        safe: scores of the prompts to answer, N_s >= 1.

    Returns:
        In [0, 1]; 1/2 for scores that tell nothing.

    Raises:
        DataError: a side has no score, or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(unsafe, safe)))


def curve(unsafe: Sequence[float], safe: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the ROC curve.

    Args:
        unsafe: scores of the prompts to refuse, N_u >= 1.
        safe: scores of the prompts to answer, N_s >= 1.

    Returns:
        Points (over-refusal, refusal) from (0, 0) to (1, 1), both ascending; points on a straight line are left out.

    Raises:
        DataError: a side has no score, or a score is not finite.
    """
    from sklearn.metrics import roc_curve

    over, refusal, _ = roc_curve(*_labelled(unsafe, safe))
    return [(float(x), float(y)) for x, y in zip(over, refusal, strict=True)]


def auc_interval(scores: Scores, resamples: int, seed: int, level: float = 0.95) -> Estimate:
    """Return the AUC with its percentile bootstrap interval; unsafe and safe prompts are resampled separately.

    Args:
        scores: of the unsafe and of the safe prompts.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Raises:
        DataError: a side has no score, or a score is not finite.
    """
    (draws,) = _resampled([scores], resamples, seed)
    return _estimate(auc(*scores), draws, level)


def compare_auc(first: Scores, second: Scores, resamples: int, seed: int, level: float = 0.95) -> Estimate:
    """Return the AUC of one set of scores minus that of another on the same prompts, with a paired bootstrap interval.

    Args:
        first: scores of the unsafe and of the safe prompts.
        second: other scores of the same prompts, in the same order.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Raises:
        DataError: the prompts differ in number, a side has no score, or a score is not finite.
    """
    sizes = [tuple(map(len, scores)) for scores in (first, second)]
    if sizes[0] != sizes[1]:
        raise DataError(f"scores of {sizes[0]} and {sizes[1]} prompts cannot be paired; score the same prompts")
    own, others = _resampled([first, second], resamples, seed)
    return _estimate(auc(*first) - auc(*second), own - others, level)


def threshold_for(safe: Sequence[float], most: float) -> float:
    """Return the lowest threshold that refuses at most a share of the safe prompts; a score above it is a refusal.

    Args:
        safe: scores of the prompts to answer, N_s >= 1.
        most: share in [0, 1] of them that may be refused.

    Raises:
        DataError: there is no score, or one is not finite.
    """
    ordered = np.sort(_finite(safe, "safe"))[::-1]
    allowed = int(most * len(ordered) + 1e-9)
    return float(ordered[allowed]) if allowed < len(ordered) else -sys.float_info.max


def _labelled(unsafe: Sequence[float], safe: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([_finite(unsafe, "unsafe"), _finite(safe, "safe")])
    return np.repeat([1, 0], [len(unsafe), len(safe)]), scores


def _resampled(scores: Sequence[Scores], resamples: int, seed: int) -> list[np.ndarray]:
    """Draw bootstrap AUCs, (resamples,) per set of scores, all over the same draws of prompts."""
    wins = []
    for unsafe, safe in scores:
        above, below = _finite(unsafe, "unsafe"), _finite(safe, "safe")
        wins.append((np.sign(above[:, None] - below[None, :]) + 1) / 2)  # (N_u, N_s): won, tied or lost
    rows, columns = wins[0].shape
    rng, size = np.random.default_rng(seed), max(1, _CHUNK // (rows + columns))
    drawn: list[list[np.ndarray]] = [[] for _ in wins]
    for start in range(0, resamples, size):
        number = min(size, resamples - start)
        up = rng.multinomial(rows, np.full(rows, 1 / rows), size=number).astype(np.float64)
        down = rng.multinomial(columns, np.full(columns, 1 / columns), size=number)
        for part, won in zip(drawn, wins, strict=True):
            part.append(((up @ won) * down).sum(axis=1) / (rows * columns))
    return [np.concatenate(part) for part in drawn]


def _finite(scores: Sequence[float], kind: str) -> np.ndarray:
    numbers = np.asarray(scores, dtype=np.float64)
    if numbers.size == 0:
        raise DataError(f"a ROC curve needs scores of both kinds, and there is none of {kind} prompts")
    if not np.isfinite(numbers).all():
        broken = np.count_nonzero(~np.isfinite(numbers))
        raise DataError(f"{broken} scores of {kind} prompts are not finite; compute them again")
    return numbers


def _estimate(value: float, draws: np.ndarray, level: float) -> Estimate:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
