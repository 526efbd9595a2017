import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.rewards.labels.optimal import greedy_d_optimal, information_growth


def test_the_longest_new_direction_comes_first():
    """M = I. The rows (1, 0), (2, 0), (0, 1) add log 2, log 5, log 2: (2, 0) is first, and M = diag(5, 1).

    Then (1, 0) adds log(1 + 1/5) = log 1.2 and (0, 1) adds log 2, so (0, 1) is second and (1, 0) last. Together
    log(5 * 2 * 1.2) = log 12, the determinant of I + diag(1 + 4, 1) = diag(6, 2).
    """
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    found = greedy_d_optimal(rows, 3)
    assert found.rows.tolist() == [1, 2, 0]
    assert found.growth == pytest.approx([math.log(5), math.log(2), math.log(1.2)])
    assert information_growth(rows) == pytest.approx(math.log(12))


def test_what_is_known_already_is_not_asked_again():
    """The known row (3, 0) makes M = diag(10, 1): (2, 0) adds log(1 + 4/10) = log 1.4, less than the log 2 of (0, 1).

    With a ridge of 4 instead M = diag(13, 4): (2, 0) adds log(1 + 4/13), (0, 1) adds log(1 + 1/4).
    """
    rows, known = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 0.0]])
    found = greedy_d_optimal(rows, 1, known)
    assert found.rows.tolist() == [1] and found.growth == pytest.approx([math.log(2)])
    assert information_growth(rows[:1], known) == pytest.approx(math.log(1.4))
    ridged = greedy_d_optimal(rows, 2, known, ridge=4.0)
    assert ridged.rows.tolist() == [0, 1]
    assert ridged.growth == pytest.approx([math.log(17 / 13), math.log(1.25)])


def test_rows_that_are_not_orthogonal():
    """M = I, then (1, 1): M = [[2, 1], [1, 2]], M^-1 = [[2, -1], [-1, 2]] / 3. (1, 0) then adds log(1 + 2/3)."""
    found = greedy_d_optimal(np.array([[1.0, 0.0], [1.0, 1.0]]), 2)
    assert found.rows.tolist() == [1, 0]
    assert found.growth == pytest.approx([math.log(3), math.log(5 / 3)])


def test_more_than_there_are_none_and_equal_rows():
    rows = np.ones((3, 2))
    assert greedy_d_optimal(rows, 9).rows.tolist() == [0, 1, 2]
    assert greedy_d_optimal(rows, 0).rows.tolist() == []
    assert greedy_d_optimal(np.zeros((0, 2)), 4).rows.tolist() == []
    assert greedy_d_optimal(np.zeros((2, 2)), 2).growth.tolist() == [0.0, 0.0]
    assert information_growth(np.zeros((0, 2))) == 0.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.ones((2, 2)), 1, None, 0.0), "ridge is 0.0"),
        ((np.ones((2, 2)), -1), "count is -1"),
        ((np.ones((2, 2)), 1, np.ones((1, 3))), r"\(2, 2\) and \(1, 3\)"),
        ((np.ones(2), 1), "give"),
    ],
)
def test_bad_input_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        greedy_d_optimal(*given)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 6), st.integers(0, 4))
def test_updates_agree_with_determinants(seed, n, width, known_rows):
    """Each growth is the difference of two log determinants, is the largest possible, and growth never rises."""
    generator = np.random.default_rng(seed)
    rows, known = generator.normal(size=(n, width)), generator.normal(size=(known_rows, width))
    found = greedy_d_optimal(rows, n, known, 0.5)
    assert sorted(found.rows) == list(range(n))
    assert (np.diff(found.growth) <= 1e-9).all()
    information = 0.5 * np.eye(width) + known.T @ known
    for step, row in enumerate(found.rows):
        grown = [_log_det(information + np.outer(rows[i], rows[i])) for i in found.rows[step:]]
        assert grown[0] == pytest.approx(max(grown))
        assert grown[0] - _log_det(information) == pytest.approx(found.growth[step])
        information += np.outer(rows[row], rows[row])
    assert information_growth(rows, known, 0.5) == pytest.approx(found.growth.sum())


def _log_det(matrix):
    return np.linalg.slogdet(matrix)[1]
