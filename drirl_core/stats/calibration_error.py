"""Calibration: whether predictions are correct as often as their confidence says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from drirl_core.errors import DataError

_PAIR_BINS = 5


def calibration(
    confidence: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, *, bins: int, lowest: float = 0.0
) -> tuple[float, list[dict[str, float]]]:
    """Compare the confidence of predictions with how often they are correct.

    The expected calibration error is sum_b n_b / n |accuracy_b - confidence_b| over bins of equal width (Guo et al.
    2017, arXiv 1706.04599).

    Args:
        confidence: confidence of each of N predictions, a probability in [lowest, 1].
        right: whether each prediction is correct, (N,).
        bins: number of bins over [lowest, 1].
        lowest: the lowest possible confidence, below 1: 0.5 for the favourite of two.

    Returns:
        The error in [0, 1] (NaN without predictions), and one row per bin that is not empty: mean `confidence`,
        `accuracy`, `n`.

    Raises:
        DataError: the lengths differ.
    """
    sure, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if len(sure) != len(hits):
        raise DataError(f"{len(sure)} confidences and {len(hits)} outcomes; give one of each per prediction")
    if not len(sure):
        return math.nan, []
    places = np.minimum(((sure - lowest) / (1 - lowest) * bins).astype(int), bins - 1)
    rows = [
        {
            "confidence": float(sure[places == b].mean()),
            "accuracy": float(hits[places == b].mean()),
            "n": int((places == b).sum()),
        }
        for b in range(bins)
        if (places == b).any()
    ]
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(sure), rows


def pair_calibration(gaps: Sequence[float] | np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Compare the confidence of reward models in the better of two completions with how often they are correct.

    A reward gap says that the demonstration wins with probability sigmoid(gap). The favourite of a pair then has the
    confidence sigmoid(|gap|) in [0.5, 1], and it is correct where gap > 0.

    Args:
        gaps: reward of the demonstration minus reward of the completion, of N pairs.

    Returns:
        The expected calibration error and its five bins, as `calibration` gives them.
    """
    from scipy.special import expit

    values = np.asarray(gaps, dtype=np.float64)
    return calibration(expit(np.abs(values)), values > 0, bins=_PAIR_BINS, lowest=0.5)
