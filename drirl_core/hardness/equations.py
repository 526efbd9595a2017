"""Hardness coefficients: how much each prompt's advantages count (METHOD section 4). Pure functions and one small class.

    W_i      = mean_a max_b cos(Phi(y_E^a), Phi(y^b))                  similarity of completion and demonstration
    delta_i  = 1 - W_i,   alphaD_i = sigmoid(delta_i) / sigmoid(mean_k delta)                      data hardness
    M_i      = 1 iff (gap_i - mean gap)^2 <= tau;   gapF = sum_i M_i gap_i / (N - T)              gap filter
    alphaM_k = sigmoid(gapF) / sigmoid(mean_k gap)                                       model responsiveness
    alpha_i  = alphaD_i * alphaM_k, then divided by its mean over the batch

One reading was chosen where the paper is ambiguous. M_i = 1 means *kept*, and T is the number of gaps masked *out*, so that
N - T is the number kept and gapF is the mean of the kept gaps. (Were T the number with M_i = 1, the divisor would count the
gaps that are not in the sum, and be 0 when all are kept.) When every gap is masked out, N - T = 0 and gapF does not exist:
`filtered_gap` refuses. That can only happen with a fixed tau; the quantile always keeps a gap.

W itself is in `similarity.py`. Shapes: B rows (completions), N gaps of a category.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from drirl_core import taxonomy
from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.hardness.similarity import SentenceSimilarity, matrix_similarity

__all__ = [
    "AlphaBatch", "Coefficients", "SentenceSimilarity", "alpha_data", "alpha_model", "combine", "data_hardness", "derange",
    "filtered_gap", "gap_mask", "matrix_similarity", "normalise", "running_mean",
]  # fmt: skip

logger = logging.getLogger(__name__)

Combine = Literal["product", "sum", "data", "model", "none", "shuffled"]


def data_hardness(similarity: np.ndarray) -> np.ndarray:
    """Return delta = 1 - W, in [0, 2], of the shape of `similarity`."""
    return 1.0 - np.asarray(similarity, dtype=np.float64)


def alpha_data(delta: np.ndarray, mean_delta: float | None = None) -> np.ndarray:
    """Return alphaD = sigmoid(delta) / sigmoid(mean_k delta).

    Args:
        delta: data hardness of one category's prompts, (N,).
        mean_delta: mean_k delta; None takes the mean of `delta`.

    Returns:
        (N,), above 0, growing with delta; about 0.87 to 1.12 for cosines as they occur.
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
        slack = 1e-9 * max(1.0, tau)  # two gaps lie equally far from their mean, but for rounding
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
    """Join the two coefficients: product (the paper), sum, data, model or none, then raise to the sharpness.

    `sum` is the mean (alphaD + alphaM) / 2: the same as the sum once divided by the batch mean, but with 1 as its neutral
    value, which helpful rows have. `shuffled` is the product here; who gets it is decided by `derange`.

    Args:
        alpha_d: data hardness coefficients, (N,).
        alpha_m: model responsiveness, (N,) or one number.
        mode: how to join.
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


def normalise(alpha: np.ndarray) -> np.ndarray:
    """Divide by the mean over the batch, because AdamW and gradient clipping hide a common factor.

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
    """Return a random permutation of `count` places that leaves none where it was, when there are at least two.

    Args:
        count: number of places.
        generator: source of chance.

    Returns:
        One cycle through all places, int, (count,).
    """
    order = generator.permutation(count)
    cycle = np.empty(count, dtype=np.int64)
    cycle[order] = np.roll(order, 1)
    return cycle


@dataclass(frozen=True)
class AlphaBatch:
    """Coefficients of a generation batch of B rows.

    Args:
        alpha: mean 1 over the batch, at least 0, (B,).
        alpha_d: data hardness coefficient of each row, (B,); 1 on helpful rows.
        alpha_m: model responsiveness of each row's category, (B,); 1 on helpful rows.
        delta: 1 - W of each row, (B,).
        stats: for each harm category of the batch: `n` rows, `prompts`, `mean_delta` (of the batch), `centre_delta` (mean_k delta
            as used), `mean_gap`, `filtered_gap`, `tau`, `kept` (share), `alpha_m`, `alpha` (mean after normalisation).
    """

    alpha: np.ndarray
    alpha_d: np.ndarray
    alpha_m: np.ndarray
    delta: np.ndarray
    stats: dict[str, dict[str, float]]


class Coefficients:
    """Turn similarities and gaps of a generation batch into alpha, with the little state that needs.

    Args:
        config: settings.
        seed: of the placebo `shuffled`; every call shuffles anew.
        stored: alpha by prompt id. With refresh `once` it is used throughout, and similarities and gaps have no influence; with
            `epoch` it is what the first pass over a category's prompts uses, and each pass makes the table of the next.
        constants: `constants.json` of hardness_<category>, by category. Their `mean_delta` starts mean_k delta, the mean
            over the category's data set, which then follows the policy as a running mean; a category without an entry is
            centred on its rows in the batch, as the equation says for a batch. (With one prompt of a category a batch,
            centring on the batch would make alphaD 1 always.) `mean_gap` starts the running mean of `ema`.
    """

    def __init__(
        self,
        config: HardnessConfig,
        seed: int,
        stored: Mapping[str, float] | None = None,
        constants: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._from_table = config.refresh != "step" and config.combine != "none"
        if self._from_table and not stored:
            raise DataError(
                f"hardness.refresh is {config.refresh!r}, which needs the stored alphas of hardness_<category>; there are none"
            )
        self._config, self._seed, self._stored = config, seed, dict(stored or {})
        self._passes: dict[
            str, dict[str, tuple[float, float]]
        ] = {}  # mean delta and gap of each prompt met in this pass, by category
        self._calls = 0
        self._mean_delta = {name: float(entry["mean_delta"]) for name, entry in (constants or {}).items()}
        self._mean_gap = {name: float(entry["mean_gap"]) for name, entry in (constants or {}).items()}

    def compute(
        self, similarities: np.ndarray, gaps: np.ndarray, categories: Sequence[str], groups: Sequence[str]
    ) -> AlphaBatch:
        """Return the coefficients of a batch; call once a generation batch, with the rows of all processes.

        Args:
            similarities: W of each completion with its demonstration, in [-1, 1], (B,); not read on helpful rows.
            gaps: reward gap of each completion, (B,); not read on helpful rows.
            categories: category of each row; `helpful` rows have alpha 1 before normalisation.
            groups: prompt id of each row.

        Returns:
            alpha and what it is made of.

        Raises:
            DataError: lengths differ, or `stored` lacks a prompt.
            TrainingError: a similarity or gap of a harm row is not finite.
        """
        similarities, gaps = np.asarray(similarities, dtype=np.float64), np.asarray(gaps, dtype=np.float64)
        names, prompts = np.array(categories, dtype=object), np.array(groups, dtype=object)
        harm = names != taxonomy.HELPFUL
        self._check(similarities, gaps, names, prompts, harm)
        delta = data_hardness(similarities)
        alpha_d, alpha_m, stats = np.ones(len(names)), np.ones(len(names)), {}
        for category in dict.fromkeys(names[harm].tolist()):
            rows = np.flatnonzero(names == category)
            alpha_d[rows], alpha_m[rows], stats[category] = self._category(
                category, delta[rows], gaps[rows], prompts[rows]
            )
        joined = combine(
            alpha_d, alpha_m, self._config.combine, self._config.sharpness
        )  # 1 on helpful rows, where both are 1
        if self._from_table:
            if self._config.refresh == "epoch":
                self._note(names, prompts, delta, gaps, harm)
            joined = np.where(harm, [self._stored.get(prompt, 1.0) for prompt in prompts], 1.0)
        if self._config.combine == "shuffled":
            joined = self._shuffle(joined, prompts, harm)
        self._calls += 1
        alpha = normalise(joined)
        for category, entry in stats.items():
            entry["alpha"] = float(alpha[names == category].mean())
        return AlphaBatch(alpha, alpha_d, alpha_m, delta, stats)

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run needs to go on alike, as JSON data."""
        state: dict[str, Any] = {
            "calls": self._calls,
            "mean_delta": dict(self._mean_delta),
            "mean_gap": dict(self._mean_gap),
        }
        if self._config.refresh == "epoch":
            state |= {"stored": dict(self._stored), "passes": {name: dict(seen) for name, seen in self._passes.items()}}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._calls = int(state["calls"])
        self._mean_delta = {str(name): float(value) for name, value in state["mean_delta"].items()}
        self._mean_gap = {str(name): float(value) for name, value in state["mean_gap"].items()}
        if self._config.refresh == "epoch":
            self._stored = dict(state["stored"])
            self._passes = {
                name: {prompt: (d, g) for prompt, (d, g) in seen.items()} for name, seen in state["passes"].items()
            }

    def _note(
        self, names: np.ndarray, prompts: np.ndarray, delta: np.ndarray, gaps: np.ndarray, harm: np.ndarray
    ) -> None:
        """Collect what a pass over a category's prompts shows; when a prompt comes round again, make its table anew first."""
        for category in dict.fromkeys(names[harm].tolist()):
            rows = np.flatnonzero(names == category)
            members, place = np.unique(prompts[rows].astype(str), return_inverse=True)
            counts = np.bincount(place)
            means = zip(
                np.bincount(place, weights=delta[rows]) / counts,
                np.bincount(place, weights=gaps[rows]) / counts,
                strict=True,
            )
            fresh = {member: (float(d), float(g)) for member, (d, g) in zip(members.tolist(), means, strict=True)}
            seen = self._passes.setdefault(category, {})
            if seen.keys() & fresh.keys():
                self._stored.update(self._table(category, seen))
                seen.clear()
            seen.update(fresh)

    def _table(self, category: str, seen: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return alpha of the prompts of a finished pass, its means taken over the whole pass as the equations say."""
        delta, gaps = np.array(list(seen.values())).T
        kept, _ = gap_mask(gaps, self._config.keep_quantile, self._config.tau)
        filtered = filtered_gap(gaps, kept) if kept.any() else float(gaps.mean())
        reference = self._mean_gap[category] if self._config.responsiveness == "ema" else float(gaps.mean())
        alpha = combine(
            alpha_data(delta), alpha_model(filtered, reference), self._config.combine, self._config.sharpness
        )
        return dict(zip(seen, alpha.tolist(), strict=True))

    def _check(
        self, similarities: np.ndarray, gaps: np.ndarray, names: np.ndarray, prompts: np.ndarray, harm: np.ndarray
    ) -> None:
        sizes = {len(similarities), len(gaps), len(names), len(prompts)}
        if len(sizes) != 1 or not len(names):
            raise DataError(
                f"{len(similarities)} similarities, {len(gaps)} gaps, {len(names)} categories and {len(prompts)} groups; "
                "give one of each a row, and at least one row"
            )
        for what, values in (("similarity", similarities), ("reward gap", gaps)):
            bad = np.flatnonzero(harm & ~np.isfinite(values))
            if len(bad):
                raise TrainingError(
                    f"the {what} of row {bad[0]} ({names[bad[0]]}) is {values[bad[0]]}; check the reward model and the encoder"
                )
        if self._from_table:
            lacking = sorted({str(prompt) for prompt in prompts[harm]} - set(self._stored))
            if lacking:
                raise DataError(
                    f"no stored alpha for {len(lacking)} prompts, such as {lacking[0]}; "
                    "materialize hardness_<category> of this data set again"
                )

    def _category(
        self, category: str, delta: np.ndarray, gaps: np.ndarray, prompts: np.ndarray
    ) -> tuple[np.ndarray, float, dict[str, float]]:
        """Return alphaD of a category's rows, its alphaM and its statistics."""
        members, place = np.unique(prompts.astype(str), return_inverse=True)
        per_prompt = np.bincount(place, weights=delta) / np.bincount(place)
        units = per_prompt if self._config.granularity == "prompt" else delta
        centre = float(units.mean())
        if category in self._mean_delta:
            centre = self._mean_delta[category] = running_mean(
                self._mean_delta[category], centre, self._config.ema_decay
            )
        alpha_d = alpha_data(units, centre)
        alpha_m, stats = self._responsiveness(category, gaps)
        stats |= {"prompts": float(len(members)), "mean_delta": float(delta.mean()), "centre_delta": centre}
        return alpha_d[place] if self._config.granularity == "prompt" else alpha_d, alpha_m, stats

    def _responsiveness(self, category: str, gaps: np.ndarray) -> tuple[float, dict[str, float]]:
        """Return alphaM of a category from its rows' gaps, and statistics."""
        mean_gap = reference = float(gaps.mean())
        kept, tau = gap_mask(gaps, self._config.keep_quantile, self._config.tau)
        if kept.any():
            filtered = filtered_gap(gaps, kept)
        else:  # only with a fixed tau; a run of hours should not die of one odd batch
            message = "%s: hardness.tau %g keeps none of %d gaps of this batch, the mean of all stands in for gapF; raise tau or leave it out"
            logger.warning(message, category, tau, len(gaps))
            filtered = mean_gap
        if self._config.responsiveness == "ema":
            reference = self._mean_gap.setdefault(category, mean_gap)
            self._mean_gap[category] = running_mean(reference, filtered, self._config.ema_decay)
        alpha_m = alpha_model(filtered, reference)
        stats = {
            "n": float(len(gaps)),
            "mean_gap": mean_gap,
            "filtered_gap": filtered,
            "tau": tau,
            "kept": float(kept.mean()),
        }
        return alpha_m, {**stats, "alpha_m": alpha_m}

    def _shuffle(self, alpha: np.ndarray, prompts: np.ndarray, harm: np.ndarray) -> np.ndarray:
        """Give each harm prompt the alphas of another one (the placebo)."""
        members = list(dict.fromkeys(prompts[harm].tolist()))
        source = derange(len(members), np.random.default_rng([self._seed, self._calls]))
        rows = {member: np.flatnonzero(harm & (prompts == member)) for member in members}
        shuffled = alpha.copy()
        for member, other in zip(members, source, strict=True):
            own, foreign = rows[member], rows[members[other]]
            shuffled[own] = alpha[foreign[np.arange(len(own)) % len(foreign)]]
        return shuffled
