"""The category router: the harm category of a prompt without a label, or no category when it is unsure.

Logistic regression on sentence embeddings with one temperature, fitted on out-of-fold logits. One number cannot overfit
sixty rows per class; isotonic or per-class calibration would. Below the confidence floor the router abstains. The same
out-of-fold probabilities say how sure a router that never saw a row is of another category than the row's label.

With very many rows it learns from a part of them and routes all: a fit takes more steps the more rows it has, and far
fewer rows determine the weights of 384 numbers per embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drirl_core.errors import DataError
from drirl_core.store.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from drirl_core.models.embeddings import Embedder

MIN_ROWS = 5
"""A category with fewer labelled prompts is not learned: its rows cannot be held out in turn."""

ROWS = 50_000
"""Most labelled prompts that the router learns from."""

_FOLDS = 5
_BLOCK = 65_536
_REGULARISATION = 1.0  # inverse strength; unit-length embeddings of a few hundred rows overfit with less regularisation
_LOG_TEMPERATURE_RANGE = (-4.0, 4.0)
_BINS = 10


class NoRouterError(DataError):
    """Say that the labels of a pool are too few to learn a router from."""


@dataclass(frozen=True)
class Route:
    """Decision for one prompt.

    Args:
        category: the category, or None when the router abstains.
        best: the most probable category.
        confidence: its calibrated probability, in [0, 1].
    """

    category: str | None
    best: str
    confidence: float


@dataclass(frozen=True)
class Router:
    """A fitted router.

    Args:
        categories: the K categories it knows, sorted.
        held_out: (N, K) calibrated probabilities of the training rows by models that never saw them; NaN rows where the
            label was not learned.
        accuracy: share of held-out rows whose most probable category is their label, in [0, 1].
        calibration_error: expected calibration error of the held-out probabilities (ten bins), in [0, 1].
        temperature: logits are divided by it.
        model: the fitted scikit-learn classifier.
    """

    categories: tuple[str, ...]
    held_out: np.ndarray
    accuracy: float
    calibration_error: float
    temperature: float
    model: Any

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Return calibrated category probabilities.

        Args:
            embeddings: (M, D) unit rows.

        Returns:
            (M, K), rows sum to 1.
        """
        from scipy.special import softmax

        return softmax(_logits(self.model, embeddings) / self.temperature, axis=1)

    def route(self, embeddings: np.ndarray, floor: float) -> list[Route]:
        """Choose a category for each row, or abstain.

        Args:
            embeddings: (M, D) unit rows.
            floor: the router abstains under this probability, in [0, 1].
        """
        if not len(embeddings):
            return []
        table = self.probabilities(embeddings)
        best = [
            (self.categories[index], float(row[index])) for row, index in zip(table, table.argmax(axis=1), strict=True)
        ]
        return [Route(category if confidence >= floor else None, category, confidence) for category, confidence in best]

    def conflicts(self, labels: Sequence[str], floor: float) -> list[Route | None]:
        """Find training rows whose label a router that never saw them contradicts.

        Args:
            labels: the N labels the router was fitted on, in the same order.
            floor: probability of another category from which the label counts as wrong, in [0, 1].

        Returns:
            For each row the contradicting decision, or None.
        """
        found: list[Route | None] = []
        for label, row in zip(labels, self.held_out, strict=True):
            best = int(row.argmax())
            sure = label in self.categories and self.categories[best] != label and row[best] >= floor
            found.append(Route(self.categories[best], self.categories[best], float(row[best])) if sure else None)
        return found


def why_no_router(labels: Sequence[str]) -> str:
    """Say why no router can be learned from these labels; empty when one can."""
    counts = Counter(labels)
    learnable = [label for label, count in counts.items() if count >= MIN_ROWS]
    if len(learnable) >= 2:
        return ""
    shown = ", ".join(f"{label} {count}" for label, count in sorted(counts.items())) or "none"
    return f"a router needs two categories with at least {MIN_ROWS} labelled prompts each; there are: {shown}"


def router_of_pool(pool: Path, embedder: Embedder, seed: int) -> Router:
    """Fit a router on the labelled prompts of a pool; their embeddings are cached.

    Args:
        pool: directory of the prompt pool.
        embedder: embeds texts.
        seed: of the fit.

    Raises:
        NoRouterError: no router can be learned from these labels.
        DataError: the pool cannot be read.
    """
    rows = read_table(pool / "prompts.parquet", ("prompt", "category", "labelled_by"))
    labelled = [row for row in rows if row["labelled_by"] == "source"]
    labels = [row["category"] for row in labelled]
    if problem := why_no_router(labels):
        raise NoRouterError(problem)
    return fit_router(embedder.encode([row["prompt"] for row in labelled]), labels, seed)


def fit_router(embeddings: np.ndarray, labels: Sequence[str], seed: int, most: int = ROWS) -> Router:
    """Learn the router from labelled prompts.

    Categories with fewer than `MIN_ROWS` rows are left out. Every row is held out once, also where part of them is
    learned from.

    Args:
        embeddings: (N, D) unit rows.
        labels: their N categories.
        seed: decides the folds, and which rows are learned from.
        most: rows that are learned from.

    Returns:
        The router with its held-out report.

    Raises:
        DataError: fewer than two categories have enough rows.
    """
    import numpy as np
    from scipy.special import softmax
    from sklearn.model_selection import StratifiedKFold

    from drirl_core.stats import calibration

    if reason := why_no_router(labels):
        raise DataError(reason)
    counts = Counter(labels)
    categories = tuple(sorted(label for label, count in counts.items() if count >= MIN_ROWS))
    used = np.array([label in categories for label in labels])
    targets = np.array([categories.index(label) for label in labels if label in categories])
    rows = np.flatnonzero(used)
    learned = learned_rows(targets, most, seed)
    logits = np.zeros((len(targets), len(categories)))
    fold = np.zeros(len(targets), dtype=int)
    splitter = StratifiedKFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    for number, (train, test) in enumerate(splitter.split(targets, targets)):
        train = train[learned[train]]
        logits[test] = _logits(_fit(embeddings[rows[train]], targets[train]), embeddings[rows[test]])
        fold[test] = number
    calibrated = np.zeros_like(logits)
    for number in range(_FOLDS):  # a fold's temperature comes from the others, so that the report is not optimistic
        inside = fold == number
        temperature = _fit_temperature(logits[~inside], targets[~inside])
        calibrated[inside] = softmax(logits[inside] / temperature, axis=1)
    right = calibrated.argmax(axis=1) == targets
    held_out = np.full((len(labels), len(categories)), np.nan)
    held_out[used] = calibrated
    return Router(
        categories=categories,
        held_out=held_out,
        accuracy=float(right.mean()),
        calibration_error=calibration(calibrated.max(axis=1), right, bins=_BINS)[0],
        temperature=_fit_temperature(logits, targets),
        model=_fit(embeddings[rows[learned]], targets[learned]),
    )


def learned_rows(targets: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Choose the rows to learn from: all, or as many of each category as there is room for, small ones completely.

    Args:
        targets: (N,) numbers of the categories, each of them there.
        most: rows to choose.
        seed: decides which rows of a category are chosen.

    Returns:
        (N,) whether a row is chosen.
    """
    import numpy as np

    if len(targets) <= most:
        return np.ones(len(targets), dtype=bool)
    counts = np.bincount(targets)
    room, left, quota = most, len(counts), np.zeros_like(counts)
    for category in np.argsort(counts, kind="stable"):  # what a small one leaves goes to the larger ones
        quota[category] = min(counts[category], room // left)
        room, left = room - quota[category], left - 1
    order = np.random.default_rng(seed).permutation(len(targets))
    chosen = np.zeros(len(targets), dtype=bool)
    for category, count in enumerate(quota):
        chosen[order[targets[order] == category][:count]] = True
    return chosen


def _fit(features: np.ndarray, targets: np.ndarray) -> Any:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Balanced, because the pool's category counts say nothing about the prompts to be routed.
    model = LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=2000)
    # Products this narrow gain nothing from threads, which wait for each other ten times as long on a busy machine.
    with threadpool_limits(1, user_api="blas"):
        return model.fit(np.asarray(features, dtype=np.float64), targets)


def _logits(model: Any, features: np.ndarray) -> np.ndarray:
    """Return (M, K) logits; two categories share one logit in scikit-learn."""
    import numpy as np

    starts = range(0, max(1, len(features)), _BLOCK)  # a copy with eight bytes per number, of a part at a time
    parts = [
        model.decision_function(np.asarray(features[start : start + _BLOCK], dtype=np.float64)) for start in starts
    ]
    found = np.concatenate(parts)
    return np.stack([np.zeros_like(found), found], axis=1) if found.ndim == 1 else found


def _fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return T that minimises the summed cross-entropy of logits / T plus (log T)^2 / 2.

    The second term keeps the confidence finite when a few rows are perfectly separated.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        losses = logsumexp(scaled, axis=1) - scaled[np.arange(len(targets)), targets]
        return float(losses.sum() + log_temperature**2 / 2)

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURE_RANGE, method="bounded").x))
