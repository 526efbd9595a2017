"""The two reference classifiers of prompts: a bag of words (floor) and a linear probe of hidden states (ceiling).

Both are logistic regressions over the training prompts, kept as plain numbers in JSON. A score above the threshold
counts as a refusal. The threshold is chosen on validation prompts, never on a suite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from drirl_core.benchmarks.roc import auc, threshold_for
from drirl_core.errors import ArtifactError, DataError

FLOOR, CEILING = "floor", "ceiling"
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths of the probe, the strongest regularisation first: hidden states have more dimensions
than there are prompts."""

_DIGITS = 9
_STEPS = 5000


@dataclass(frozen=True)
class Split:
    """Prompts of one split of the data sets.

    Args:
        unsafe: whether each of N prompts should be refused.
        counts: whether each prompt counts for the threshold; all unsafe ones do, of the harmless ones the look-alikes.
    """

    unsafe: np.ndarray
    counts: np.ndarray

    @property
    def look_alikes(self) -> np.ndarray:
        """The harmless prompts that sound unsafe, on which over-refusal counts; all harmless ones if none does."""
        chosen = ~self.unsafe & self.counts
        return chosen if chosen.any() else ~self.unsafe


@dataclass(frozen=True)
class Linear:
    """A linear score with its threshold.

    Args:
        weights: one per feature.
        bias: added to the weighted sum.
        threshold: a score above it is a refusal.
        strength: inverse regularisation strength it was fitted with.
        validation_auc: AUC on the validation split, unsafe against harmless.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float
    strength: float
    validation_auc: float


@dataclass(frozen=True)
class BagOfWords:
    """TF-IDF of words and pairs of words, and a linear score.

    Args:
        terms: words and pairs of words in the order of the weights.
        idf: inverse document frequency of each.
        linear: the score.
    """

    terms: tuple[str, ...]
    idf: tuple[float, ...]
    linear: Linear

    def scores(self, prompts: Sequence[str]) -> np.ndarray:
        """Return the score of each of N prompts, (N,)."""
        vectoriser = _vectoriser(vocabulary={term: number for number, term in enumerate(self.terms)})
        vectoriser.idf_ = np.array(self.idf)
        return np.asarray(vectoriser.transform(prompts) @ np.array(self.linear.weights)) + self.linear.bias


@dataclass(frozen=True)
class Probe:
    """A linear score of standardised hidden states.

    Args:
        layer: whose output is read, counted from 1.
        mean: of the training states, one per dimension.
        scale: their standard deviation, above 0.
        linear: the score.
    """

    layer: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    linear: Linear

    def scores(self, states: np.ndarray) -> np.ndarray:
        """Return the score of N hidden states (N, H), (N,)."""
        scaled = (states.astype(np.float64) - np.array(self.mean)) / np.array(self.scale)
        return scaled @ np.array(self.linear.weights) + self.linear.bias


def fit_bag_of_words(
    train: tuple[Sequence[str], Split], validation: tuple[Sequence[str], Split], most: float
) -> BagOfWords:
    """Fit the floor.

    Args:
        train: prompts of the training split, and which of them are unsafe.
        validation: the same of the validation split.
        most: over-refusal on validation look-alikes that the threshold allows.

    Raises:
        DataError: a split lacks unsafe or harmless prompts, or no prompt has a word.
    """
    vectoriser = _vectoriser()
    try:
        features = vectoriser.fit_transform(train[0])
    except ValueError as error:  # "empty vocabulary"
        raise DataError(
            f"the training prompts have no words to classify by ({error}); look at the data sets"
        ) from error
    linear = _fit((features, train[1]), (vectoriser.transform(validation[0]), validation[1]), (1.0,))
    found = BagOfWords(tuple(map(str, vectoriser.get_feature_names_out())), _numbers(vectoriser.idf_), linear)
    return replace(found, linear=_with_threshold(linear, found.scores(validation[0]), validation[1], most))


def fit_probe(layer: int, train: tuple[np.ndarray, Split], validation: tuple[np.ndarray, Split], most: float) -> Probe:
    """Fit the ceiling; the strength of its regularisation is the strongest of the best on the validation split.

    Args:
        layer: whose output the states are.
        train: hidden states (N, H) of the training prompts, and which of them are unsafe.
        validation: the same of the validation split.
        most: over-refusal on validation look-alikes that the threshold allows.

    Raises:
        DataError: a split lacks unsafe or harmless prompts.
    """
    states = train[0].astype(np.float64)
    mean, scale = states.mean(axis=0), states.std(axis=0)
    scale[scale == 0] = 1.0
    seen, unseen = ((part.astype(np.float64) - mean) / scale for part in (train[0], validation[0]))
    linear = _fit((seen, train[1]), (unseen, validation[1]), STRENGTHS)
    found = Probe(layer, _numbers(mean), _numbers(scale), linear)
    return replace(found, linear=_with_threshold(linear, found.scores(validation[0]), validation[1], most))


def save(classifier: BagOfWords | Probe, file: Path) -> None:
    """Write a classifier as JSON."""
    file.write_text(json.dumps(asdict(classifier), ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[BagOfWords, Probe]:
    """Read floor and ceiling from the directory of a `reference_classifiers` artifact.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    try:
        floor, ceiling = (
            _with_linear(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))) for name in (FLOOR, CEILING)
        )
        return BagOfWords(**floor), Probe(**ceiling)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{folder} holds no floor and ceiling ({error}); materialize reference_classifiers again"
        ) from error


def _with_linear(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "linear": Linear(**data["linear"])}


def _vectoriser(vocabulary: Mapping[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), vocabulary=vocabulary)


def _fit(train: tuple[Any, Split], validation: tuple[Any, Split], strengths: Sequence[float]) -> Linear:
    """Fit a logistic regression per strength and keep the first of those with the best AUC on the validation split."""
    from sklearn.linear_model import LogisticRegression

    for name, (_, split) in (("training", train), ("validation", validation)):
        if split.unsafe.all() or not split.unsafe.any():
            raise DataError(
                f"the {name} split has {int(split.unsafe.sum())} unsafe prompts of {len(split.unsafe)}; floor and "
                "ceiling need unsafe and harmless ones"
            )
    fitted: list[Linear] = []
    for strength in strengths:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=_STEPS).fit(train[0], train[1].unsafe)
        scores, unsafe = model.decision_function(validation[0]), validation[1].unsafe
        found = auc(scores[unsafe], scores[~unsafe])
        fitted.append(Linear(_numbers(model.coef_[0]), _numbers(model.intercept_)[0], 0.0, strength, found))
    return max(fitted, key=lambda one: one.validation_auc)  # the first of the best


def _with_threshold(linear: Linear, scores: np.ndarray, split: Split, most: float) -> Linear:
    """Choose the threshold by the scores that the kept, rounded classifier gives."""
    return replace(linear, threshold=threshold_for(scores[split.look_alikes], most))


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    """Round, so that files are equal although machines sum in different orders."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
