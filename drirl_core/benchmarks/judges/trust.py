"""What a judge's measured error may mean for refusal rates.

A judge calls a share f of the replies that do not refuse a refusal, and misses a share m of the refusals. If it errs so
on the replies of a suite as well, the rate v of its verdicts and the rate p without its errors belong together by

    v = f (1 - p) + (1 - m) p,      p = (v - f) / (1 - f - m)  in [0, 1]          (Rogan and Gladen, 1978)

The shift p - v is given in points. Its interval is that of the share of refusals among these very replies: f and m are
drawn from Beta(errors + 1/2, others + 1/2), p from its posterior under a uniform prior, and then how many verdicts of
either kind are wrong. It covers how well the errors are known and how they fall by chance, not the choice of prompts,
which the interval of v covers. A difference of two rates keeps its sign and grows by 1 / (1 - f - m), in other words by
1 / (sensitivity + specificity - 1).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drirl_core import stats
from drirl_core.benchmarks.judges.labelled import is_shipped

DRAWS, RESAMPLES, SEED = 4_000, 10_000, 0
"""Of the interval of a shift, and of the bootstrap of a rate error."""
_GRID = np.linspace(0.0, 1.0, 201)
"""Rates among which p is drawn."""
_WORTHLESS = 0.025
"""Share of draws in which a judge is no better than chance, above which nothing is said about a rate."""


@dataclass(frozen=True)
class MeasuredError:
    """How often a judge was wrong on one set of labelled replies.

    Args:
        data: the labelled set.
        n: judged replies.
        wrong: share of wrong verdicts, with its 95 % interval.
        stands_for: number of replies that the rows stand for where they are weighted, else 0.
        replies: replies that the counts below are of: `n`, or fewer where rows are weighted (effective number).
        refusals: those that refuse by their label; None where it is not known.
        false: those that the judge falsely calls refusals; None where it is not known.
        missed: refusals that it does not see; None where it is not known.
        off: rate of refusals by the verdicts minus that by the labels, with its 95 % interval; None if not known.
    """

    data: str
    n: int
    wrong: stats.Estimate
    stands_for: int
    replies: float
    refusals: float | None
    false: float | None
    missed: float | None
    off: stats.Estimate | None

    @property
    def by_people(self) -> bool:
        """Whether the labels are not known to be those of a model, as in the shipped set."""
        return not is_shipped(self.data)

    @property
    def false_share(self) -> float | None:
        """The share f of what does not refuse; None where there is none, or it is not known."""
        if self.refusals is None or self.false is None or self.replies <= self.refusals:
            return None
        return self.false / (self.replies - self.refusals)

    @property
    def missed_share(self) -> float | None:
        """The share m of the refusals; None where there is none, or it is not known."""
        if not self.refusals or self.missed is None:
            return None
        return self.missed / self.refusals

    @property
    def sensitivity(self) -> stats.Estimate | None:
        """The share 1 - m of the refusals that it sees, with its Wilson 95 % interval; None as for `missed_share`."""
        m = self.missed_share
        return None if m is None or not self.refusals else stats.wilson_rate(max(0.0, 1 - m), self.refusals)

    @property
    def specificity(self) -> stats.Estimate | None:
        """The share 1 - f of what does not refuse, as `sensitivity`; None as for `false_share`."""
        f = self.false_share
        return None if f is None else stats.wilson_rate(max(0.0, 1 - f), self.replies - (self.refusals or 0.0))

    @property
    def growth(self) -> float | None:
        """By how much a difference of two rates grows; None where the judge is no better than chance, or not known."""
        f, m = self.false_share, self.missed_share
        return None if f is None or m is None or f + m >= 1 else 1 / (1 - f - m)

    def growths(self, draws: int) -> np.ndarray | None:
        """Draw by how much a difference of two rates may grow, as far as the judge is better than chance.

        Args:
            draws: number of draws, at least 1.

        Returns:
            Factors above 0, (draws,); None as for `shift`.
        """
        drawn = _drawn(self, np.random.default_rng((SEED, 1)), draws)  # not the stream that draws prompts
        if drawn is None:
            return None
        left = 1 - drawn[0] - drawn[1]
        return np.resize(1 / left[left > 0], draws)

    def scaled(
        self, gains: Sequence[float] | np.ndarray, costs: Sequence[float] | np.ndarray, resamples: int, seed: int
    ) -> stats.Estimate | None:
        """Return a difference of two policies without the judge's errors, where these are equally frequent for both.

        Args:
            gains: difference of the verdicts per prompt, one policy minus the other, in [-1, 1].
            costs: the same on prompts whose refusals count against a policy; may be empty.
            resamples: draws of the interval.
            seed: of the draws of prompts.

        Returns:
            mean(gains) - mean(costs), divided by 1 - f - m, with a 95 % interval that covers the choice of prompts and
            how well f and m are known: each draw of `stats.pooled_composite` is scaled by a draw of the factor, so that
            both intervals lie on the same side of 0. Cut off at what a difference can be, 1 for each kind of prompt.
            None as for `shift`.
        """
        factor, factors = self.growth, self.growths(resamples)
        if factor is None or factors is None:
            return None
        value, drawn = stats.resampled_composite(gains, costs, resamples, np.random.default_rng(seed))
        most = float(sum(1 for part in (gains, costs) if len(part)))
        value, drawn = min(most, max(-most, value * factor)), np.clip(drawn * factors, -most, most)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return stats.Estimate(value, min(value, float(low)), max(value, float(high)))

    def shift(self, rate: float, n: int) -> stats.Estimate | None:
        """Return by how much a rate would differ without the judge's errors.

        Args:
            rate: of refusals by the verdicts, in [0, 1].
            n: replies that it is of, at least 1.

        Returns:
            p - v with its 95 % interval, a share in [-1, 1]; None where the errors are not known or so frequent that
            the rate says nothing.
        """
        return _shift(self, rate, n)


@functools.lru_cache(maxsize=256)  # a page says the same shift in several places
def _shift(error: MeasuredError, rate: float, n: int) -> stats.Estimate | None:
    rng = np.random.default_rng(SEED)
    errors, f, m = _drawn(error, rng, DRAWS), error.false_share, error.missed_share
    if errors is None or f is None or m is None:
        return None
    drawn = _true_counts(round(rate * n), n, *errors, rng) / n - rate
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = min(1.0, max(0.0, (rate - f) / (1 - f - m))) - rate
    return stats.Estimate(value, min(value, float(low)), max(value, float(high)))


def _drawn(error: MeasuredError, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw f and m from their posteriors under Jeffreys' prior, (draws,) each; None where no rate can be corrected."""
    if error.growth is None:
        return None
    refusals, false, missed = error.refusals or 0.0, error.false or 0.0, error.missed or 0.0
    others = error.replies - refusals
    ends = ((wrong + 0.5, max(0.0, n - wrong) + 0.5) for wrong, n in ((false, others), (missed, refusals)))
    first, second = (rng.beta(*pair, draws) for pair in ends)
    return None if float((first + second >= 1).mean()) > _WORTHLESS else (first, second)


def _true_counts(refused: int, n: int, false: np.ndarray, missed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw how many of n replies refuse, of which a judge calls some refusals.

    Args:
        refused: replies that it calls refusals.
        n: replies.
        false: draws of f, (N,).
        missed: draws of m, (N,).
        rng: makes the draws.

    Returns:
        Counts, (N,).
    """
    from scipy.special import xlog1py, xlogy

    said = np.outer(1 - missed, _GRID) + np.outer(false, 1 - _GRID)  # (N, rates): P(verdict is a refusal) at each p
    log = xlogy(refused, said) + xlog1py(n - refused, -said)
    weights = np.cumsum(np.exp(log - log.max(axis=1, keepdims=True)), axis=1)
    place = (weights < rng.random((len(false), 1)) * weights[:, -1:]).sum(axis=1)  # p from its posterior, by inversion
    p, q = _GRID[place], said[np.arange(len(false)), place]
    seen = np.where(q > 0, p * (1 - missed) / np.maximum(q, 1e-300), 0.0)
    unseen = np.where(q < 1, p * missed / np.maximum(1 - q, 1e-300), 0.0)
    return rng.binomial(refused, np.clip(seen, 0.0, 1.0)) + rng.binomial(n - refused, np.clip(unseen, 0.0, 1.0))


def of_record(record: Mapping[str, Any]) -> MeasuredError | None:
    """Return the error that results hold of a judge; None where it is not known.

    From accuracy, precision p and recall r follow the counts: of R refusals (1 - r) R are missed, and (1 / p - 1) r R
    other replies are called refusals; together they are the wrong verdicts.

    Args:
        record: as `JudgeAgreement`, its values None where unknown.
    """
    if record.get("accuracy") is None:
        return None
    n, precision, recall = record["n"], record["precision"], record["recall"]
    wrong = stats.Estimate(1 - record["accuracy"], 1 - record["high"], 1 - record["low"])
    errors = round(wrong.value * n)
    refusals = false = missed = None
    if not errors:
        false, missed = 0.0, 0.0
    elif precision > 0 and recall > 0:
        lost, added = 1 - recall, (1 / precision - 1) * recall  # per refusal
        if lost + added > 0:
            refusals, missed = float(round(errors / (lost + added))), float(round(errors * lost / (lost + added)))
            false = errors - missed
    return MeasuredError(record["data"], n, wrong, 0, n, refusals, false, missed, _off(false, missed, n))


def of_measurement(found: Mapping[str, Any]) -> MeasuredError:
    """Return the error that `judge_error` computed.

    Args:
        found: JSON data of that function.
    """
    n, over = found["n"], found.get("population")
    off = _estimate((over or found["refusal_rate"])["error"])
    accuracy = _estimate((over or found)["accuracy"])
    wrong = stats.Estimate(1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low)
    if over:  # false + missed = wrong, false - missed = off
        replies = over["accuracy"]["n"]
        false, missed = (max(0.0, replies * (wrong.value + sign * off.value) / 2) for sign in (1, -1))
        counts = replies, replies * over["labels"], false, missed
    else:
        false, missed = (found[name] or {"value": 0.0, "n": 0} for name in ("false_refusals", "missed_refusals"))
        counts = n, missed["n"], *(float(round(part["value"] * part["n"])) for part in (false, missed))
    return MeasuredError(found["data"], n, wrong, over["replies"] if over else 0, *counts, off)


def _off(false: float | None, missed: float | None, n: int) -> stats.Estimate | None:
    """Return the error of the refusal rate as `judge_error` does, from the counts of wrong verdicts."""
    if false is None or missed is None:
        return None
    added, lost = round(false), round(missed)
    rest = [0.0] * (n - added - lost)  # where verdict and label agree, both count alike
    said, labelled = [1.0] * added + [0.0] * lost + rest, [0.0] * added + [1.0] * lost + rest
    return stats.paired_bootstrap(said, labelled, RESAMPLES, SEED)


def _estimate(found: Mapping[str, float]) -> stats.Estimate:
    return stats.Estimate(found["value"], found["low"], found["high"])
