"""Tests and intervals of the difference between two policies, and the correction of p-values for many tests.

Paired means that both policies completed the same prompts, in the same order. Tests that have an exact form use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drirl_core.errors import DataError
from drirl_core.stats.intervals import CHUNK, Estimate, bootstrap_mean, finite, percentile, resampled_composite

_TIES = 1e-12
"""Sums that differ by less count as equal: in another order the same numbers may differ in the last bits."""


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs of two policies over the same prompts.

    Args:
        only_first: number of prompts on which only the first policy shows the outcome.
        only_second: number of prompts on which only the second does.
        p: exact two-sided p-value of the hypothesis that the two are equally likely.
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
    interval = percentile(value, draws, level)
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
    """Compare two policies over several seeds: differences per prompt, averaged over the seeds beforehand.

    A prompt is the unit, so that the seeds of a prompt, which are alike, are not counted as independent. The interval
    resamples prompts, unsafe and safe ones separately. The p-value is that of a permutation test: under the null
    hypothesis the two policies may be swapped on a prompt, in all seeds at once, which flips the sign of its
    difference; it is (1 + draws at least as extreme) / (1 + draws).

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
    interval = percentile(value, draws, 0.95)
    flipped = np.sum([_flipped_means(np.asarray(d), resamples, rng) for d in (unsafe, safe) if len(d)], axis=0)
    extreme = int((np.abs(flipped) >= abs(value) - _TIES).sum())
    return Composite(value, interval.low, interval.high, (1 + extreme) / (1 + resamples))


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


def _same_length(first: int, second: int, what: str) -> None:
    if first != second:
        raise DataError(
            f"paired comparison of {first} and {second} {what}; give both policies' outcomes on the same ones, "
            "in the same order"
        )


def _differences(first: Sequence[float], second: Sequence[float], what: str) -> np.ndarray:
    _same_length(len(first), len(second), what)
    return finite(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), what)


def _flipped_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw means of the values with random signs, (draws,); values that are 0 cannot matter and are left out."""
    moved = values[values != 0]
    size = max(1, CHUNK // max(1, len(moved)))
    parts = [
        (rng.integers(0, 2, size=(min(size, draws - start), len(moved)), dtype=np.int8) * 2 - 1) @ moved
        for start in range(0, draws, size)
    ]
    return np.concatenate(parts) / len(values)
