"""Coefficients during a run: the equations applied to each generation batch, and the state that they need.

Shapes: B rows (completions) of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drirl_core import taxonomy
from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.hardness.equations import (
    CategoryCoefficients,
    category_coefficients,
    data_hardness,
    derange,
    normalise,
    running_mean,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlphaBatch:
    """Coefficients of a generation batch of B rows.

    Args:
        alpha: mean 1 over the batch, at least 0, (B,).
        alpha_d: data hardness coefficient of each row, (B,); 1 on helpful rows.
        alpha_m: model responsiveness of each row's category, (B,); 1 on helpful rows.
        delta: 1 - W of each row, (B,).
        stats: for each harm category of the batch: `n` rows, `prompts`, `mean_delta` (of the batch), `centre_delta`
            (mean_k delta as used), `mean_gap`, `filtered_gap`, `tau`, `kept` (share), `alpha_m`, `alpha` (mean after
            normalisation).
    """

    alpha: np.ndarray
    alpha_d: np.ndarray
    alpha_m: np.ndarray
    delta: np.ndarray
    stats: dict[str, dict[str, float]]


class Coefficients:
    """Turn similarities and gaps of a generation batch into alpha.

    Args:
        config: settings.
        seed: of the placebo `shuffled`; every call draws another random derangement.
        stored: alpha by prompt id. With refresh `once` it is used for the entire run, and similarities and gaps have
            no influence; with `epoch` it is used in the first pass over a category's prompts, and each pass computes
            the table of the next.
        constants: `constants.json` of hardness_<category>, by category. Their `mean_delta` starts mean_k delta, the
            mean over the category's data set, which then follows the policy as a running mean; a category without an
            entry is centred on its rows in the batch, as the equation says for a batch. (With one prompt of a category
            per batch, centring on the batch would make alphaD 1 always.) `mean_gap` starts the running mean of `ema`.
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
                f"hardness.refresh is {config.refresh!r}, which needs the stored alphas of hardness_<category>; "
                "there are none"
            )
        self._config, self._seed, self._stored = config, seed, dict(stored or {})
        # Mean delta and gap of each prompt met in this pass, by category.
        self._passes: dict[str, dict[str, tuple[float, float]]] = {}
        self._calls = 0
        self._mean_delta = {name: float(entry["mean_delta"]) for name, entry in (constants or {}).items()}
        self._mean_gap = {name: float(entry["mean_gap"]) for name, entry in (constants or {}).items()}

    def compute(
        self, similarities: np.ndarray, gaps: np.ndarray, categories: Sequence[str], groups: Sequence[str]
    ) -> AlphaBatch:
        """Return the coefficients of a batch; call once per generation batch, with the rows of all processes.

        Args:
            similarities: W of each completion with its demonstration, in [-1, 1], (B,); not read on helpful rows.
            gaps: reward gap of each completion, (B,); not read on helpful rows.
            categories: category of each row; `helpful` rows have alpha 1 before normalisation.
            groups: prompt id of each row.

        Returns:
            alpha and the values that it is computed from.

        Raises:
            DataError: lengths differ, or `stored` lacks a prompt.
            TrainingError: a similarity or gap of a harm row is not finite.
        """
        similarities, gaps = np.asarray(similarities, dtype=np.float64), np.asarray(gaps, dtype=np.float64)
        names, prompts = np.array(categories, dtype=object), np.array(groups, dtype=object)
        harm = names != taxonomy.HELPFUL
        self._check(similarities, gaps, names, prompts, harm)
        delta = data_hardness(similarities)
        alpha, alpha_d, alpha_m = (np.ones(len(names)) for _ in range(3))  # 1 on helpful rows
        stats: dict[str, dict[str, float]] = {}
        for category in dict.fromkeys(names[harm].tolist()):
            rows = np.flatnonzero(names == category)
            found, unit, stats[category] = self._category(category, delta[rows], gaps[rows], prompts[rows])
            alpha[rows], alpha_d[rows], alpha_m[rows] = found.alpha[unit], found.alpha_d[unit], found.alpha_m
        if self._from_table:
            if self._config.refresh == "epoch":
                self._note(names, prompts, delta, gaps, harm)
            alpha = np.where(harm, [self._stored.get(prompt, 1.0) for prompt in prompts], 1.0)
        if self._config.combine == "shuffled":
            alpha = self._shuffle(alpha, prompts, harm)
        self._calls += 1
        alpha = normalise(alpha)
        for category, entry in stats.items():
            entry["alpha"] = float(alpha[names == category].mean())
        return AlphaBatch(alpha, alpha_d, alpha_m, delta, stats)

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run needs to continue with the same results, as JSON data."""
        state: dict[str, Any] = {
            "calls": self._calls,
            "mean_delta": dict(self._mean_delta),
            "mean_gap": dict(self._mean_gap),
        }
        if self._config.refresh == "epoch":
            state |= {"stored": dict(self._stored), "passes": {name: dict(seen) for name, seen in self._passes.items()}}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._calls = int(state["calls"])
        self._mean_delta = {str(name): float(value) for name, value in state["mean_delta"].items()}
        self._mean_gap = {str(name): float(value) for name, value in state["mean_gap"].items()}
        if self._config.refresh == "epoch":
            self._stored = dict(state["stored"])
            self._passes = {
                name: {prompt: (d, g) for prompt, (d, g) in seen.items()} for name, seen in state["passes"].items()
            }

    def _category(
        self, category: str, delta: np.ndarray, gaps: np.ndarray, prompts: np.ndarray
    ) -> tuple[CategoryCoefficients, np.ndarray, dict[str, float]]:
        """Return the coefficients of a category's units (prompts or rows), the unit of each row, and statistics."""
        config = self._config
        members, unit = np.unique(prompts.astype(str), return_inverse=True)
        units = np.bincount(unit, weights=delta) / np.bincount(unit)
        if config.granularity == "completion":
            units, unit = delta, np.arange(len(delta))
        centre = float(units.mean())
        if category in self._mean_delta:
            centre = self._mean_delta[category] = running_mean(self._mean_delta[category], centre, config.ema_decay)
        found = category_coefficients(
            units, gaps, config, mean_delta=centre, mean_gap=self._reference_gap(category), strict=False
        )
        if not found.kept.any():  # only with a fixed tau; one unusual batch should not end a run of hours
            message = (
                "%s: hardness.tau %g keeps none of %d gaps of this batch, the mean of all is used as gapF; "
                "raise tau or leave it out"
            )
            logger.warning(message, category, found.tau, len(gaps))
        if config.responsiveness == "ema":
            reference = self._mean_gap.setdefault(category, found.mean_gap)
            self._mean_gap[category] = running_mean(reference, found.filtered_gap, config.ema_decay)
        stats = {
            "n": float(len(gaps)), "prompts": float(len(members)), "mean_delta": float(delta.mean()),
            "centre_delta": centre, "mean_gap": found.mean_gap, "filtered_gap": found.filtered_gap, "tau": found.tau,
            "kept": float(found.kept.mean()), "alpha_m": found.alpha_m,
        }  # fmt: skip
        return found, unit, stats

    def _reference_gap(self, category: str) -> float | None:
        """Return the running mean that gapF is compared with, or None for the mean of the same gaps."""
        return self._mean_gap.get(category) if self._config.responsiveness == "ema" else None

    def _note(
        self, names: np.ndarray, prompts: np.ndarray, delta: np.ndarray, gaps: np.ndarray, harm: np.ndarray
    ) -> None:
        """Collect the values of a pass over a category; when a prompt repeats, compute the next table first."""
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
        """Return alpha of the prompts of a finished pass; as in the equations, means are over the entire pass."""
        delta, gaps = np.array(list(seen.values())).T
        found = category_coefficients(delta, gaps, self._config, mean_gap=self._reference_gap(category), strict=False)
        return dict(zip(seen, found.alpha.tolist(), strict=True))

    def _check(
        self, similarities: np.ndarray, gaps: np.ndarray, names: np.ndarray, prompts: np.ndarray, harm: np.ndarray
    ) -> None:
        sizes = {len(similarities), len(gaps), len(names), len(prompts)}
        if len(sizes) != 1 or not len(names):
            raise DataError(
                f"{len(similarities)} similarities, {len(gaps)} gaps, {len(names)} categories and {len(prompts)} "
                "groups; give one of each per row, and at least one row"
            )
        for what, values in (("similarity", similarities), ("reward gap", gaps)):
            bad = np.flatnonzero(harm & ~np.isfinite(values))
            if len(bad):
                raise TrainingError(
                    f"the {what} of row {bad[0]} ({names[bad[0]]}) is {values[bad[0]]}; "
                    "check the reward model and the encoder"
                )
        if self._from_table:
            lacking = sorted({str(prompt) for prompt in prompts[harm]} - set(self._stored))
            if lacking:
                raise DataError(
                    f"no stored alpha for {len(lacking)} prompts, such as {lacking[0]}; "
                    "materialize hardness_<category> of this data set again"
                )

    def _shuffle(self, alpha: np.ndarray, prompts: np.ndarray, harm: np.ndarray) -> np.ndarray:
        """Give each harm prompt the alphas of another one, by a random derangement (the placebo)."""
        members = list(dict.fromkeys(prompts[harm].tolist()))
        source = derange(len(members), np.random.default_rng([self._seed, self._calls]))
        rows = {member: np.flatnonzero(harm & (prompts == member)) for member in members}
        shuffled = alpha.copy()
        for member, other in zip(members, source, strict=True):
            own, foreign = rows[member], rows[members[other]]
            shuffled[own] = alpha[foreign[np.arange(len(own)) % len(foreign)]]
        return shuffled
