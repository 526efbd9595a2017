"""Router: learns clear categories, is calibrated, abstains, contradicts wrong labels, and says when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drirl_core.errors import DataError
from drirl_core.prompts.router import MIN_ROWS, fit_router, learned_rows, why_no_router
from drirl_core.stats import calibration


def _clusters(rows: int, names: tuple[str, ...], spread: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Draw `rows` unit vectors around one axis per category."""
    random = np.random.default_rng(seed)
    points = np.concatenate([np.eye(16)[i] + spread * random.standard_normal((rows, 16)) for i in range(len(names))])
    return points / np.linalg.norm(points, axis=1, keepdims=True), [name for name in names for _ in range(rows)]


def test_clear_categories_are_routed() -> None:
    embeddings, labels = _clusters(12, ("a", "b", "c"), 0.1)
    router = fit_router(embeddings, labels, seed=0)
    assert router.categories == ("a", "b", "c")
    assert router.accuracy == 1
    assert router.held_out.shape == (36, 3)
    np.testing.assert_allclose(router.held_out.sum(axis=1), 1)
    assert [r.category for r in router.route(np.eye(16)[:3], 0.5)] == ["a", "b", "c"]
    assert router.route(np.zeros((0, 16)), 0.5) == []


def test_the_router_abstains_under_the_floor() -> None:
    embeddings, labels = _clusters(30, ("a", "b"), 0.3)
    router = fit_router(embeddings, labels, seed=0)
    between = (np.eye(16)[:1] + np.eye(16)[1:2]) / np.sqrt(2)
    sure, unsure = router.route(np.concatenate([np.eye(16)[:1], between]), 0.8)
    assert (sure.category, sure.best) == ("a", "a")
    assert unsure.category is None
    assert unsure.best in ("a", "b")
    assert 0.5 <= unsure.confidence < 0.8


def test_confidence_matches_accuracy_on_new_rows() -> None:
    """Overlapping clusters: about six of ten are right, and the mean confidence says so."""
    names = ("a", "b", "c", "d")
    router = fit_router(*_clusters(60, names, 0.7), seed=0)
    embeddings, labels = _clusters(500, names, 0.7, seed=1)
    table = router.probabilities(embeddings)
    right = table.argmax(axis=1) == np.array([names.index(label) for label in labels])
    assert 0.45 < right.mean() < 0.8
    assert calibration(table.max(axis=1), right, bins=10)[0] < 0.12
    assert abs(router.accuracy - right.mean()) < 0.12


def test_labels_without_meaning_give_no_confidence() -> None:
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((80, 16)) / 4
    router = fit_router(embeddings, ["a", "b"] * 40, seed=0)
    assert router.accuracy < 0.7
    assert router.probabilities(random.standard_normal((50, 16)) / 4).max(axis=1).mean() < 0.7


def test_wrong_labels_are_contradicted_by_a_router_that_never_saw_them() -> None:
    embeddings, labels = _clusters(40, ("a", "b", "c"), 0.15)
    labels[0], labels[50] = "c", "a"
    router = fit_router(embeddings, labels, seed=0)
    conflicts = router.conflicts(labels, 0.8)
    assert {i: c.best for i, c in enumerate(conflicts) if c} == {0: "a", 50: "b"}
    assert router.conflicts(labels, 1.0) == [None] * 120


def test_categories_with_few_rows_are_left_out_and_never_contradicted() -> None:
    embeddings, labels = _clusters(MIN_ROWS, ("a", "b", "rare"), 0.1)
    router = fit_router(embeddings[:-1], labels[:-1], seed=0)
    assert router.categories == ("a", "b")
    assert np.isnan(router.held_out[-1]).all()
    assert router.conflicts(labels[:-1], 0.0)[-1] is None


def test_small_categories_are_learned_completely_and_large_ones_share_what_is_left() -> None:
    """Of 65 rows a third is 21: 5 rows leave 60 for two categories, 30 each."""
    targets = np.repeat([0, 1, 2], [100, 5, 40])
    chosen = learned_rows(targets, 65, seed=0)
    assert np.bincount(targets[chosen]).tolist() == [30, 5, 30]
    assert (chosen == learned_rows(targets, 65, seed=0)).all()
    assert (chosen != learned_rows(targets, 65, seed=1)).any()
    assert np.bincount(targets[learned_rows(targets, 135, seed=0)]).tolist() == [90, 5, 40]
    assert learned_rows(targets, 145, seed=0).all()


def test_a_router_that_learned_from_a_part_holds_out_and_contradicts_every_row() -> None:
    embeddings, labels = _clusters(200, ("a", "b", "c"), 0.15)
    labels[0], labels[250] = "c", "a"
    router = fit_router(embeddings, labels, seed=0, most=90)
    np.testing.assert_allclose(router.held_out.sum(axis=1), 1)
    assert {i: c.best for i, c in enumerate(router.conflicts(labels, 0.8)) if c} == {0: "a", 250: "b"}
    assert router.accuracy > 0.97


def test_all_rows_are_learned_where_there_are_no_more() -> None:
    embeddings, labels = _clusters(40, ("a", "b", "c"), 0.4)
    complete, cut, unlimited = (fit_router(embeddings, labels, seed=0, most=most) for most in (120, 119, 10**9))
    np.testing.assert_array_equal(complete.held_out, unlimited.held_out)
    assert (complete.held_out != cut.held_out).any()


@pytest.mark.parametrize("labels", [[], ["a"] * 50, ["a"] * 50 + ["b"] * (MIN_ROWS - 1)])
def test_one_category_or_too_few_rows_give_no_router_and_say_so(labels: list[str]) -> None:
    assert "two categories with at least" in why_no_router(labels)
    with pytest.raises(DataError, match="there are"):
        fit_router(np.zeros((len(labels), 4)), labels, seed=0)


def test_equal_input_gives_equal_probabilities() -> None:
    embeddings, labels = _clusters(20, ("a", "b", "c"), 0.4)
    first, second = (fit_router(embeddings, labels, seed=3) for _ in range(2))
    assert first.temperature == second.temperature
    np.testing.assert_array_equal(first.held_out, second.held_out)


@settings(max_examples=6, deadline=None)
@given(rows=st.integers(MIN_ROWS, 9), spread=st.sampled_from([0.0, 0.01, 1.0]), seed=st.integers(0, 99))
def test_tiny_sets_give_finite_modest_probabilities(rows: int, spread: float, seed: int) -> None:
    embeddings, labels = _clusters(rows, ("a", "b"), spread, seed)
    router = fit_router(embeddings, labels, seed)
    table = router.probabilities(np.concatenate([embeddings, np.zeros((1, 16))]))
    assert np.isfinite(table).all()
    assert np.isfinite(router.held_out).all()
    assert 0.05 < router.temperature < 20
    np.testing.assert_allclose(table.sum(axis=1), 1)
