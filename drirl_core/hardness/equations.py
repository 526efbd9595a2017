"""Hardness coefficients: how much each prompt's advantages count (docs/method.md, section 4). Pure functions.

    W_i      = mean_a max_b cos(Phi(y_E^a), Phi(y^b))                  similarity of completion and demonstration
    delta_i  = 1 - W_i,   alphaD_i = sigmoid(delta_i) / sigmoid(mean_k delta)                      data hardness
    M_i      = 1 iff (gap_i - mean gap)^2 <= tau;   gapF = sum_i M_i gap_i / (N - T)              gap filter
    alphaM_k = sigmoid(gapF) / sigmoid(mean_k gap)                                       model responsiveness
    alpha_i  = alphaD_i * alphaM_k, then divided by its mean over the batch

`category_coefficients` computes all of this for one category, except the last division: the hardness stage uses it for
the table of the training prompts, the trainer for its batches. The paper is ambiguous in one place. Here M_i = 1 means
*kept*, and T is the number of gaps masked *out*, so that N - T is the number kept and gapF is the mean of the kept gaps.
(If T were the number with M_i = 1, the divisor would count the gaps that are not in the sum, and be 0 when all are
kept.) When every gap is masked out, N - T = 0 and gapF does not exist: `filtered_gap` refuses. That can only happen
with a fixed tau; the quantile always keeps a gap.

Shapes: N units (prompts or completions) and G gaps of a category, B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from drirl_core.config import HardnessConfig
from drirl_core.errors import TrainingError

Combine = Literal["product", "sum", "data", "model", "none", "shuffled"]
Direction = Literal["demonstration", "completion", "symmetric"]


def matrix_similarity(cosines: np.ndarray, direction: Direction) -> float:
    """Return W of one pair of texts from the cosines of their sub-sentences.

    Args:
        cosines: s_ab, demonstration's sub-sentences by completion's, (A, C), in [-1, 1].
        direction: `demonstration` is the recall mean_a max_b (the paper): does the completion hold all of the
            demonstration? `completion` is the precision mean_b max_a: does it hold nothing else? `symmetric` is their
            harmonic mean. Where one of the two is not positive, there is no harmonic mean, and the lower one is used;
            this is continuous at 0.

    Returns:
        W in [-1, 1]; 1 for identical texts.
    """
    recall, precision = float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean())
    if direction == "demonstration":
        return recall
    if direction == "completion":
        return precision
    low = min(recall, precision)
    return 2 * recall * precision / (recall + precision) if low > 0 else low


def data_hardness(similarity: np.ndarray) -> np.ndarray:
    """Return delta = 1 - W, in [0, 2], of the shape of `similarity`."""
    return 1.0 - np.asarray(similarity, dtype=np.float64)


def alpha_data(delta: np.ndarray, mean_delta: float | None = None) -> np.ndarray:
    """Return alphaD = sigmoid(delta) / sigmoid(mean_k delta).

    Args:
        delta: data hardness of one category's prompts, (N,).
        mean_delta: mean_k delta; None takes the mean of `delta`.

    Returns:
        (N,), above 0, growing with delta; about 0.87 to 1.12 for typical cosines.
    """
    return expit(delta) / expit(np.mean(delta) if mean_delta is None else mean_delta)


def gap_mask(gaps: np.ndarray, keep_quantile: float, tau: float | None = None) -> tuple[np.ndarray, float]:
    """Return M, true where a gap is kept: (gap - mean gap)^2 <= tau.

    Args:
        gaps: reward gaps of one category, (N,), N at least 1.
        keep_quantile: without a fixed tau, tau is the smallest squared deviation that keeps at least this share of the
            gaps (the lower quantile of the inverted distribution function, so that equal deviations stay together).
        tau: a fixed tau instead.

    Returns:
        M, bool, (N,), and tau.
    """
    values = np.asarray(gaps, dtype=np.float64)
    squared = (values - values.mean()) ** 2
    if tau is None:
        place = max(0, int(np.ceil(keep_quantile * len(values) - 1e-9)) - 1)
        tau = float(np.sort(squared)[place])
        slack = 1e-9 * max(1.0, tau)  # two gaps are equally far from their mean, up to rounding
        return squared <= tau + slack, tau
    return squared <= tau, float(tau)


def filtered_gap(gaps: np.ndarray, kept: np.ndarray) -> float:
    """Return gapF = sum_i M_i gap_i / (N - T), T being the number masked out: the mean of the kept gaps.

    Args:
        gaps: reward gaps of one category, (N,).
        kept: M, bool, (N,).

    Raises:
        TrainingError: every gap is masked out, so that N - T = 0.
    """
    n, masked_out = len(gaps), int((~kept).sum())
    if n == masked_out:
        nearest = float(((gaps - np.mean(gaps)) ** 2).min()) if n else float("nan")
        raise TrainingError(
            f"the gap filter keeps none of {n} gaps (the smallest squared deviation from their mean is {nearest:.4g}); "
            "raise hardness.tau above it, or leave hardness.tau out to keep a quantile"
        )
    return float(np.asarray(gaps, dtype=np.float64)[kept].sum() / (n - masked_out))


def alpha_model(filtered: float, mean_gap: float) -> float:
    """Return alphaM = sigmoid(gapF) / sigmoid(mean gap), above 0.

    Args:
        filtered: gapF of the category.
        mean_gap: mean gap of the category: of the same gaps (`filtered`), or a running mean (`ema`).
    """
    return float(expit(filtered) / expit(mean_gap))


def running_mean(previous: float, value: float, decay: float) -> float:
    """Return decay * previous + (1 - decay) * value (DAMA, arXiv 2502.01943, equation 14)."""
    return decay * previous + (1 - decay) * value


def combine(alpha_d: np.ndarray, alpha_m: np.ndarray | float, mode: Combine, sharpness: float = 1.0) -> np.ndarray:
    """Combine the two coefficients: product (the paper), sum, data, model or none, then raise to the sharpness.

    `sum` is the mean (alphaD + alphaM) / 2: the same as the sum after division by the batch mean, but with
    the neutral value 1, as helpful rows have it. `shuffled` is the product here; `derange` assigns it to other prompts.

    Args:
        alpha_d: data hardness coefficients, (N,).
        alpha_m: model responsiveness, (N,) or one number.
        mode: how to combine.
        sharpness: g in alpha^g, at least 1; 1 is the paper.

    Returns:
        alpha before normalisation, (N,), above 0.
    """
    data, model = np.broadcast_arrays(np.asarray(alpha_d, dtype=np.float64), np.asarray(alpha_m, dtype=np.float64))
    joined = {
        "product": lambda: data * model,
        "shuffled": lambda: data * model,
        "sum": lambda: (data + model) / 2,
        "data": lambda: data,
        "model": lambda: model,
        "none": lambda: np.ones_like(data),
    }
    return joined[mode]() ** sharpness


@dataclass(frozen=True)
class CategoryCoefficients:
    """Coefficients of N units of one category, computed from their deltas and G gaps.

    Args:
        alpha: alpha before it is divided by a batch mean, (N,), above 0.
        alpha_d: data hardness coefficients, (N,).
        alpha_m: model responsiveness of the category.
        kept: M, true where a gap is kept, bool, (G,).
        tau: largest squared deviation of a kept gap.
        mean_gap: mean of all gaps.
        filtered_gap: gapF.
    """

    alpha: np.ndarray
    alpha_d: np.ndarray
    alpha_m: float
    kept: np.ndarray
    tau: float
    mean_gap: float
    filtered_gap: float


def category_coefficients(
    delta: np.ndarray,
    gaps: np.ndarray,
    config: HardnessConfig,
    *,
    mean_delta: float | None = None,
    mean_gap: float | None = None,
    strict: bool = True,
) -> CategoryCoefficients:
    """Compute the coefficients of one category.

    Args:
        delta: data hardness of each prompt or completion, (N,), N at least 1.
        gaps: reward gap of each prompt or completion, (G,), G at least 1.
        config: gap filter, combination and sharpness.
        mean_delta: mean_k delta; None takes the mean of `delta`.
        mean_gap: mean_k gap that gapF is compared with; None takes the mean of `gaps`.
        strict: whether a tau that keeps no gap is an error; otherwise the mean of all gaps is used as gapF.

    Returns:
        alpha and the values that it is computed from.

    Raises:
        TrainingError: `strict`, and every gap is masked out.
    """
    alpha_d = alpha_data(delta, mean_delta)
    kept, tau = gap_mask(gaps, config.keep_quantile, config.tau)
    own = float(np.mean(gaps))
    filtered = filtered_gap(gaps, kept) if strict or kept.any() else own
    alpha_m = alpha_model(filtered, own if mean_gap is None else mean_gap)
    alpha = combine(alpha_d, alpha_m, config.combine, config.sharpness)
    return CategoryCoefficients(alpha, alpha_d, alpha_m, kept, tau, own, filtered)


def normalise(alpha: np.ndarray) -> np.ndarray:
    """Divide by the mean over the batch, because AdamW and gradient clipping remove a common factor.

    Args:
        alpha: at least 0 and not all 0, (B,).

    Returns:
        Mean 1, (B,).

    Raises:
        TrainingError: a value is negative or not finite, or all are 0.
    """
    values = np.asarray(alpha, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise TrainingError(f"coefficients must be finite, at least 0 and not all 0; got {values[:8]}")
    return values / values.mean()


def derange(count: int, generator: np.random.Generator) -> np.ndarray:
    """Return a random derangement: a permutation of `count` places that moves each, when there are at least two.

    Args:
        count: number of places.
        generator: source of random numbers.

    Returns:
        One cycle through all places, int, (count,).
    """
    order = generator.permutation(count)
    cycle = np.empty(count, dtype=np.int64)
    cycle[order] = np.roll(order, 1)
    return cycle
