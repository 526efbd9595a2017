"""Intervals, paired tests and calibration: pure functions over per-prompt outcomes.

Paired means that two policies completed the same prompts, in the same order. All randomness is seeded; tests that
have an exact form use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drirl_core.errors import DataError

_CHUNK = 1 << 22
_PAIR_BINS = 5
_TIES = 1e-12


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


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs of two policies over the same prompts.

    Args:
        only_first: number of prompts on which only the first policy shows the outcome.
        only_second: number of prompts on which only the second does.
        p: exact two-sided p-value that the two are equally likely.
    """

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Composite:
    """Difference of `refusal of unsafe prompts - refusal of safe prompts` between two policies.

    Args:
        value: first policy minus second, in [-2, 2].
        low: lower end of the bootstrap interval.
        high: upper end of the bootstrap interval.
        p: exact two-sided permutation p-value.
    """

    value: float
    low: float
    high: float
    p: float


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
    numbers = _finite(values, "values")
    means = _resampled_means(numbers, resamples, np.random.default_rng(seed))
    return _percentile(float(numbers.mean()), means, level)


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], resamples: int, seed: int, level: float = 0.95
) -> Estimate:
    """Return the percentile bootstrap interval of mean(first) - mean(second), resampling prompts.

    Args:
        first: N outcomes of the first policy.
        second: N outcomes of the second policy on the same prompts, in the same order.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Returns:
        The difference with its interval.

    Raises:
        DataError: the lengths differ, there is no value, or one is not finite.
    """
    return bootstrap_mean(_differences(first, second, "prompts"), resamples, seed, level)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Test exactly whether two policies show an outcome equally often on the same prompts.

    Args:
        first: N outcomes of the first policy.
        second: N outcomes of the second policy on the same prompts, in the same order.

    Returns:
        The discordant counts and the binomial p-value; 1 when no pair is discordant.

    Raises:
        DataError: the lengths differ.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    _same_length(len(a), len(b), "prompts")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    if only_first + only_second == 0:
        return McNemar(0, 0, 1.0)
    from scipy.stats import binomtest

    return McNemar(only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue))


def composite(unsafe: Sequence[bool], safe: Sequence[bool], resamples: int, seed: int, level: float = 0.95) -> Estimate:
    """Give `refusal - over-refusal` of one policy with its percentile bootstrap interval.

    Args:
        unsafe: refusals of the unsafe prompts, N_u >= 1.
        safe: refusals of the safe prompts, N_s >= 1; resampled apart from the unsafe ones.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Returns:
        The difference, in [-1, 1], with its interval.

    Raises:
        DataError: a set is empty.
    """
    gains, costs = _finite(unsafe, "unsafe prompts"), _finite(safe, "safe prompts")
    return _percentile(*resampled_composite(gains, costs, resamples, np.random.default_rng(seed)), level)


def compare_composite(
    unsafe: tuple[Sequence[bool], Sequence[bool]],
    safe: tuple[Sequence[bool], Sequence[bool]],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Composite:
    """Compare `refusal - over-refusal` of two policies over two paired prompt sets.

    The interval resamples unsafe and safe prompts separately (stratified). The p-value is exact: under the null
    hypothesis the two policies' completions of a prompt may be swapped, which flips the sign of each discordant
    prompt; with m discordant prompts in a set the sum of signs is 2 Binomial(m, 1/2) - m, and the two sets are
    independent.

    Args:
        unsafe: refusals of (first, second) policy on the unsafe prompts; N_u >= 1 pairs.
        safe: refusals of (first, second) policy on the safe prompts; N_s >= 1 pairs.
        resamples: bootstrap samples.
        seed: of the resampling.
        level: confidence level in (0, 1).

    Returns:
        The difference of the composites, its interval and p-value.

    Raises:
        DataError: a set is empty or its lengths differ.
    """
    gains = _differences(*unsafe, "unsafe prompts")
    costs = _differences(*safe, "safe prompts")
    value, draws = resampled_composite(gains, costs, resamples, np.random.default_rng(seed))
    interval = _percentile(value, draws, level)
    from scipy.stats import binom

    flips = [int(np.count_nonzero(d)) for d in (gains, costs)]
    sums = [(2 * np.arange(m + 1) - m) / len(d) for m, d in zip(flips, (gains, costs), strict=True)]
    chances = [binom.pmf(np.arange(m + 1), m, 0.5) for m in flips]
    extreme = np.abs(sums[0][:, None] - sums[1][None, :]) >= abs(value) - _TIES  # (m_u + 1, m_s + 1)
    p = float((np.outer(*chances) * extreme).sum())
    return Composite(value, interval.low, interval.high, min(1.0, p))


def pooled_composite(
    unsafe: Sequence[float] | np.ndarray, safe: Sequence[float] | np.ndarray, resamples: int, seed: int
) -> Composite:
    """Compare two policies over several seeds: differences per prompt, averaged over the seeds before.

    A prompt is the unit, so that the seeds of a prompt, which are alike, are not counted as independent. The interval
    resamples prompts, unsafe and safe ones apart. The p-value is that of a permutation test: under the null hypothesis
    the two policies may be swapped on a prompt, in all seeds at once, which flips the sign of its difference; it is
    (1 + draws at least as extreme) / (1 + draws).

    Args:
        unsafe: difference of the refused share per unsafe prompt, first policy minus second, in [-1, 1].
        safe: the same per safe prompt; one of the two may be empty, and then does not count.
        resamples: draws of the interval and of the test.
        seed: of the draws.

    Returns:
        The difference of `refusal - over-refusal`, its 95 % interval and p-value.

    Raises:
        DataError: both are empty, or a difference is not finite.
    """
    rng = np.random.default_rng(seed)
    value, draws = resampled_composite(unsafe, safe, resamples, rng)
    interval = _percentile(value, draws, 0.95)
    flipped = np.sum([_flipped_means(np.asarray(d), resamples, rng) for d in (unsafe, safe) if len(d)], axis=0)
    extreme = int((np.abs(flipped) >= abs(value) - _TIES).sum())
    return Composite(value, interval.low, interval.high, (1 + extreme) / (1 + resamples))


def resampled_composite(
    unsafe: Sequence[float] | np.ndarray, safe: Sequence[float] | np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return the difference of `pooled_composite`, and the draws over prompts that its interval is of.

    Args:
        unsafe: as for `pooled_composite`.
        safe: as for `pooled_composite`.
        resamples: number of draws.
        rng: makes them; with the same seed they are those of `pooled_composite`.

    Returns:
        The difference and its draws, (resamples,).

    Raises:
        DataError: both are empty, or a difference is not finite.
    """
    if not len(unsafe) and not len(safe):
        raise DataError("no prompt to compare two policies on; give at least one unsafe or one safe prompt")
    parts = [(sign, _finite(values, what)) for sign, values, what in (
        (1.0, unsafe, "unsafe prompts"), (-1.0, safe, "safe prompts")) if len(values)]  # fmt: skip
    value = float(sum(sign * values.mean() for sign, values in parts))
    return value, np.sum([sign * _resampled_means(values, resamples, rng) for sign, values in parts], axis=0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for many tests so that the chance of any false one stays at the level (Holm 1979).

    Args:
        p_values: m p-values in [0, 1].

    Returns:
        Corrected ones in the same order: the i-th smallest times m + 1 - i, never below a smaller one's, at most 1.
    """
    found, running = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, p_values[place] * (len(p_values) - rank)))
        found[place] = running
    return found


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


def _finite(values: Sequence[float], what: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise DataError(f"no {what} to average; give at least one")
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{what} hold {np.count_nonzero(~np.isfinite(numbers))} numbers that are not finite; leave those rows out"
        )
    return numbers


def _same_length(first: int, second: int, what: str) -> None:
    if first != second:
        raise DataError(
            f"paired comparison of {first} and {second} {what}; give both policies' outcomes on the same ones, "
            "in the same order"
        )


def _differences(first: Sequence[float], second: Sequence[float], what: str) -> np.ndarray:
    _same_length(len(first), len(second), what)
    return _finite(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), what)


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw bootstrap means, (resamples,), by counts of the distinct values, which is equal in distribution."""
    distinct, counts = np.unique(values, return_counts=True)
    size = max(1, _CHUNK // len(distinct))
    parts = [
        rng.multinomial(len(values), counts / len(values), size=min(size, resamples - start)) @ distinct
        for start in range(0, resamples, size)
    ]
    return np.concatenate(parts) / len(values)


def _flipped_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw means of the values with random signs, (draws,); values that are 0 cannot matter and are left out."""
    moved = values[values != 0]
    size = max(1, _CHUNK // max(1, len(moved)))
    parts = [
        (rng.integers(0, 2, size=(min(size, draws - start), len(moved)), dtype=np.int8) * 2 - 1) @ moved
        for start in range(0, draws, size)
    ]
    return np.concatenate(parts) / len(values)


def _percentile(value: float, draws: np.ndarray, level: float) -> Estimate:
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
