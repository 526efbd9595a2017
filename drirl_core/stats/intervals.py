"""Intervals of rates, means and composites: pure functions over per-prompt outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drirl_core.errors import DataError

CHUNK = 1 << 22
"""Most random numbers that are drawn at once, so that many resamples of many values fit into memory."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Args:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Return the Wilson score interval of a rate.

    Args:
        successes: in [0, n].
        n: trials; 0 gives NaN with the interval [0, 1], because nothing is known.
        level: confidence level in (0, 1).

    Returns:
        The rate with its interval, all in [0, 1].

    Raises:
        DataError: `successes` is not in [0, n].
    """
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials is impossible; give 0 <= successes <= n")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0)
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def wilson_rate(rate: float, n: float, z: float = 1.959964) -> Estimate:
    """Give the Wilson score interval of a rate that is no count of successes, such as a mean over clusters.

    Args:
        rate: in [0, 1].
        n: independent trials, such as clusters, or their effective number; 0 gives the interval [0, 1] around NaN.
        z: quantile of the normal distribution; the default is the 95 % interval.

    Returns:
        The rate with its interval: (rate + z^2 / 2n -+ z sqrt(rate (1 - rate) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Raises:
        DataError: the rate is not in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise DataError(f"{rate} is no rate; give a number in [0, 1]")
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0)
    spread = 1 + z * z / n
    middle = (rate + z * z / (2 * n)) / spread
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / spread
    return Estimate(rate, max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_mean(values: Sequence[float], resamples: int, seed: int, level: float = 0.95) -> Estimate:
    """Return the percentile bootstrap interval of a mean.

    Args:
        values: N finite numbers, N >= 1.
        resamples: bootstrap samples, at least 1.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Returns:
        The mean with its interval.

    Raises:
        DataError: there is no value, or one is not finite.
    """
    numbers = finite(values, "values")
    means = resampled_means(numbers, resamples, np.random.default_rng(seed))
    return percentile(float(numbers.mean()), means, level)


def composite(unsafe: Sequence[bool], safe: Sequence[bool], resamples: int, seed: int, level: float = 0.95) -> Estimate:
    """Give `refusal - over-refusal` of one policy with its percentile bootstrap interval.

    Args:
        unsafe: refusals of the unsafe prompts, N_u >= 1.
        safe: refusals of the safe prompts, N_s >= 1; resampled separately from the unsafe ones.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Returns:
        The difference, in [-1, 1], with its interval.

    Raises:
        DataError: a set is empty.
    """
    gains, costs = finite(unsafe, "unsafe prompts"), finite(safe, "safe prompts")
    return percentile(*resampled_composite(gains, costs, resamples, np.random.default_rng(seed)), level)


def resampled_composite(
    unsafe: Sequence[float] | np.ndarray, safe: Sequence[float] | np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return mean(unsafe) - mean(safe) and its bootstrap draws over prompts.

    Args:
        unsafe: refusals of one policy per unsafe prompt, or differences of refusals between two policies.
        safe: the same per safe prompt; one of the two may be empty, and then does not count.
        resamples: number of draws.
        rng: makes them; with the same seed they are the draws of `pooled_composite`.

    Returns:
        The difference and its draws, (resamples,).

    Raises:
        DataError: both are empty, or a difference is not finite.
    """
    if not len(unsafe) and not len(safe):
        raise DataError("no prompt to compare two policies on; give at least one unsafe or one safe prompt")
    parts = [(sign, finite(values, what)) for sign, values, what in (
        (1.0, unsafe, "unsafe prompts"), (-1.0, safe, "safe prompts")) if len(values)]  # fmt: skip
    value = float(sum(sign * values.mean() for sign, values in parts))
    return value, np.sum([sign * resampled_means(values, resamples, rng) for sign, values in parts], axis=0)


def finite(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    """Return outcomes as an array of floats.

    Args:
        values: N finite numbers, N >= 1.
        what: what they are, for the message.

    Returns:
        The numbers, (N,).

    Raises:
        DataError: there is no value, or one is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise DataError(f"no {what} to average; give at least one")
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{what} hold {np.count_nonzero(~np.isfinite(numbers))} numbers that are not finite; leave those rows out"
        )
    return numbers


def resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw bootstrap means, (resamples,), by counts of the distinct values, which is equal in distribution."""
    distinct, counts = np.unique(values, return_counts=True)
    size = max(1, CHUNK // len(distinct))
    parts = [
        rng.multinomial(len(values), counts / len(values), size=min(size, resamples - start)) @ distinct
        for start in range(0, resamples, size)
    ]
    return np.concatenate(parts) / len(values)


def percentile(value: float, draws: np.ndarray, level: float) -> Estimate:
    """Return a value with the interval that the middle share `level` of its bootstrap draws spans."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
