"""D-optimal choice: the rows whose labels tell a linear head most about its weights (docs/method.md, section 3).

With features phi_i and a Gaussian prior, the information about the weights after the labels of the rows S is
M(S) = ridge I + sum_{i in S} phi_i phi_i^T, and log det M(S) grows by log(1 + phi^T M^-1 phi) with one more row. The
growth of later rows never exceeds that of earlier ones, so that the greedy choice is within 1 - 1/e of the best one
(Nemhauser et al. 1978). Everything here is computed between rows, C = Phi M^-1 Phi^T, and no F x F matrix is made:
heads that read thousands of features cost no more than a product with each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Choice(NamedTuple):
    """Chosen rows in the order of the choice.

    Args:
        rows: their indices, (S,).
        growth: of log det M by each of them, at least 0 and never larger than the previous one, float64, (S,).
    """

    rows: np.ndarray
    growth: np.ndarray


def greedy_d_optimal(candidates: np.ndarray, count: int, known: np.ndarray | None = None, ridge: float = 1.0) -> Choice:
    """Choose rows one after the other, each time the one by which log det M grows most.

    After row j the Sherman-Morrison formula gives C - c_j c_j^T / (1 + c_jj); only the diagonal of C and the columns of
    chosen rows are ever made: O(N F) per choice.

    Args:
        candidates: features of the rows to choose from, (N, F).
        count: rows to choose; all N where there are fewer. Of equal rows the first is chosen.
        known: features of rows whose labels are known already, (M, F); None for none.
        ridge: what M is before any label, times the identity; above 0.

    Raises:
        ValueError: shapes do not fit, the count is negative, or the ridge is not above 0.
    """
    rows, explained = _checked(candidates, known, ridge)
    if count < 0:
        raise ValueError(f"count is {count}; 0 or more rows can be chosen")
    count = min(count, len(rows))
    variance = _variance(rows, explained, ridge)  # diagonal of C, (N,)
    updates, growth = np.zeros((count, len(rows))), np.zeros(count)
    chosen = np.zeros(count, dtype=int)
    free = np.ones(len(rows), dtype=bool)
    for step in range(count):
        best = int(np.where(free, variance, -np.inf).argmax())
        column = (rows @ rows[best] - explained.T @ explained[:, best]) / ridge
        column -= updates[:step].T @ updates[:step, best]
        own = max(float(variance[best]), 0.0)
        chosen[step], growth[step], free[best] = best, np.log1p(own), False
        updates[step] = column / np.sqrt(1 + own)
        variance = np.maximum(variance - updates[step] ** 2, 0.0)
    return Choice(chosen, growth)


def information_growth(chosen: np.ndarray, known: np.ndarray | None = None, ridge: float = 1.0) -> float:
    """Return by how much rows make log det M grow together: log det(I + C) of these rows.

    Args:
        chosen: features of the rows, (S, F).
        known: features of rows whose labels are known already, (M, F); None for none.
        ridge: as for `greedy_d_optimal`.

    Raises:
        ValueError: shapes do not fit, or the ridge is not above 0.
    """
    rows, explained = _checked(chosen, known, ridge)
    covariance = (rows @ rows.T - explained.T @ explained) / ridge
    return float(np.linalg.slogdet(np.eye(len(rows)) + covariance)[1])


def _checked(rows: np.ndarray, known: np.ndarray | None, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, (N, F), and what known rows explain of them, A, (M, N): Phi M^-1 Phi^T = (G - A^T A) / ridge.

    G are the rows' products with each other. By Woodbury's formula A = L^-1 K Phi^T with L L^T = ridge I + K K^T, K
    being the known rows.
    """
    from scipy.linalg import solve_triangular

    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}; it must be above 0, or rows along new directions would count infinitely")
    rows = np.asarray(rows, dtype=np.float64)
    beside = np.zeros((0, rows.shape[-1])) if known is None else np.asarray(known, dtype=np.float64)
    if rows.ndim != 2 or beside.ndim != 2 or rows.shape[1] != beside.shape[1]:
        raise ValueError(f"features have shapes {rows.shape} and {beside.shape}; give (N, F) and (M, F)")
    if not len(beside):
        return rows, np.zeros((0, len(rows)))
    root = np.linalg.cholesky(ridge * np.eye(len(beside)) + beside @ beside.T)
    return rows, solve_triangular(root, beside @ rows.T, lower=True)


def _variance(rows: np.ndarray, explained: np.ndarray, ridge: float) -> np.ndarray:
    """Return phi^T M^-1 phi of each row, at least 0, (N,)."""
    return np.maximum(((rows**2).sum(axis=1) - (explained**2).sum(axis=0)) / ridge, 0.0)
