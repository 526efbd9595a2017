"""Reward objectives: pure functions from rewards to one loss per prompt (docs/method.md, section 3).

Notation: P prompts of a batch, at most K completions per prompt. Pools may be ragged: `mask` (P, K) is true where there
is a completion, and other values in `completion_rewards` have no influence on value or gradient. No function takes a
mean over prompts, so that the caller decides the weighting.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def maxent_loss(
    demonstration_rewards: torch.Tensor,
    completion_rewards: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    include_demonstration: bool = True,
) -> torch.Tensor:
    """Return the negative maximum-entropy IRL log-likelihood of each demonstration.

    loss = -[ r_E / beta - log mean_k exp(r_k / beta) ], the completions being samples of the reference policy. With
    pi proportional to pi_ref exp(r / beta) the second term estimates the log normaliser, and the gradient is the IRL
    gradient -(1 / beta) [ grad r_E - sum_k w_k grad r_k ] with self-normalised importance weights w = softmax(r / beta)
    (Ziebart et al. 2008; Li et al. 2024, arXiv 2405.17888, equation 6 and its closed form).

    Args:
        demonstration_rewards: r_E, (P,).
        completion_rewards: r_k, (P, K).
        mask: true where there is a completion, bool, (P, K).
        beta: temperature of the KL-regularised policy, above 0.
        include_demonstration: whether y_E is one of the samples of the mean. Without it a separable pool drives the
            reward to infinity; with it the loss is at least -log(K + 1).

    Returns:
        Loss per prompt, (P,).

    Raises:
        ValueError: shapes do not fit, beta is not positive, or a prompt has nothing to average over.
    """
    counts = _checked(demonstration_rewards, completion_rewards, mask, beta)
    scaled = (completion_rewards / beta).masked_fill(~mask, -math.inf)  # (P, K)
    own = demonstration_rewards / beta  # (P,)
    if include_demonstration:
        scaled, counts = torch.cat([own.unsqueeze(1), scaled], dim=1), counts + 1  # (P, K + 1)
    else:
        _require_completions(counts)
    return torch.logsumexp(scaled, dim=1) - counts.to(own.dtype).log() - own


def bradley_terry_loss(
    demonstration_rewards: torch.Tensor, completion_rewards: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the mean pairwise logistic loss of each prompt: mean_k -log sigmoid((r_E - r_k) / beta).

    Bradley and Terry 1952; what the public code of Li et al. 2024 uses in place of the likelihood.

    Args:
        demonstration_rewards: r_E, (P,).
        completion_rewards: r_k, (P, K).
        mask: true where there is a completion, bool, (P, K).
        beta: temperature, above 0.

    Returns:
        Loss per prompt, at least 0, (P,).

    Raises:
        ValueError: shapes do not fit, beta is not positive, or a prompt has no completion.
    """
    counts = _checked(demonstration_rewards, completion_rewards, mask, beta)
    _require_completions(counts)
    gaps = demonstration_rewards.unsqueeze(1) - completion_rewards.masked_fill(~mask, 0.0)  # (P, K)
    return _masked_mean(functional.softplus(-gaps / beta), mask, counts)


def linear_loss(
    demonstration_rewards: torch.Tensor, completion_rewards: torch.Tensor, mask: torch.Tensor, l2: float
) -> torch.Tensor:
    """Return the negative mean gap with an L2 penalty: -mean_k (r_E - r_k) + l2 (r_E^2 + mean_k r_k^2).

    The apprenticeship objective (Abbeel and Ng 2004) over rewards instead of feature weights. The penalty bounds it:
    free rewards converge to r_E = 1 / (2 l2) and r_k = -1 / (2 l2).

    Args:
        demonstration_rewards: r_E, (P,).
        completion_rewards: r_k, (P, K).
        mask: true where there is a completion, bool, (P, K).
        l2: weight of the penalty, at least 0.

    Returns:
        Loss per prompt, (P,).

    Raises:
        ValueError: shapes do not fit or a prompt has no completion.
    """
    counts = _checked(demonstration_rewards, completion_rewards, mask, 1.0)
    _require_completions(counts)
    others = completion_rewards.masked_fill(~mask, 0.0)
    gap = demonstration_rewards - _masked_mean(others, mask, counts)
    return -gap + l2 * (demonstration_rewards.square() + _masked_mean(others.square(), mask, counts))


def classifier_loss(
    demonstration_rewards: torch.Tensor,
    completion_rewards: torch.Tensor,
    weights: torch.Tensor,
    right: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the weighted logistic loss of each prompt: w_E softplus(-r_E / beta) + sum_k w_k softplus(-+ r_k / beta).

    The reward is the log-odds that a completion is of the right kind: - where it is right, + where it is wrong. Unlike
    the other objectives it lets the policy's own right completions count as such, and it sees levels, not differences.

    Args:
        demonstration_rewards: r_E, (P,).
        completion_rewards: r_k, (P, K).
        weights: of the demonstration, then of the completions, at least 0, 0 where there is none, (P, 1 + K); see
            `balanced_weights`.
        right: true where a completion is right, bool, (P, K).
        beta: temperature, above 0.

    Returns:
        Per-prompt loss, at least 0, (P,).

    Raises:
        ValueError: shapes do not fit.
    """
    _checked(demonstration_rewards, completion_rewards, right, beta)
    if weights.shape != (right.shape[0], 1 + right.shape[1]):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; give (P, 1 + K)")
    others = completion_rewards.masked_fill(weights[:, 1:] == 0, 0.0)
    wrong = functional.softplus(torch.where(right, -others, others) / beta)
    return weights[:, 0] * functional.softplus(-demonstration_rewards / beta) + (weights[:, 1:] * wrong).sum(dim=1)


def balanced_weights(mask: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return row weights by which right and wrong completions of a prompt weigh one half each.

    Args:
        mask: true where there is a completion, bool, (P, K).
        right: true where it is right, bool, (P, K). The demonstration is right.

    Returns:
        Weights of the demonstration, then of the completions, (P, 1 + K); a prompt without wrong completions sums to
        one half.
    """
    rights = torch.cat([torch.ones_like(mask[:, :1]), mask & right], dim=1).float()
    wrongs = torch.cat([torch.zeros_like(mask[:, :1]), mask & ~right], dim=1).float()
    halves = (side / (2 * side.sum(dim=1, keepdim=True).clamp(min=1)) for side in (rights, wrongs))
    return sum(halves, torch.zeros_like(rights))


def labelled_loss(
    rewards: torch.Tensor, right: torch.Tensor, wrong: torch.Tensor, level: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the loss of labelled completions, per item: pairs where both labels occur, a logistic term elsewhere.

    With right and wrong completions of one prompt, mean over all pairs of -log sigmoid((r_right - r_wrong) / beta)
    (Bradley and Terry 1952). With one side only there is nothing to compare with, and the mean over the rows of
    -log sigmoid(+- (r - level) / beta) asks for a reward above the level of what is right, or below it.

    Args:
        rewards: r of L items with at most M rows each, (L, M).
        right: true where there is a right completion, bool, (L, M).
        wrong: true where there is a wrong one, bool, (L, M).
        level: reward at which a completion is as likely right as wrong, a number, ().
        beta: temperature, above 0.

    Returns:
        Loss per item, at least 0, (L,).

    Raises:
        ValueError: shapes do not fit, beta is not positive, a row is right and wrong, or an item has no row.
    """
    if not rewards.shape == right.shape == wrong.shape or rewards.ndim != 2 or beta <= 0:
        shapes = ", ".join(str(tuple(given.shape)) for given in (rewards, right, wrong))
        raise ValueError(
            f"rewards, right and wrong have shapes {shapes}, beta is {beta}; give (L, M), and beta above 0"
        )
    if (right & wrong).any() or not (right | wrong).any(dim=1).all():
        raise ValueError("each row is right or wrong, not both, and each item has at least one")
    rewards = rewards.masked_fill(~(right | wrong), 0.0)
    pairs = right.unsqueeze(2) & wrong.unsqueeze(1)  # (L, M, M)
    gaps = functional.softplus(-(rewards.unsqueeze(2) - rewards.unsqueeze(1)) / beta)
    counts = pairs.sum(dim=(1, 2))
    compared = gaps.masked_fill(~pairs, 0.0).sum(dim=(1, 2)) / counts.clamp(min=1)
    above = (rewards - level) / beta
    alone = _masked_mean(
        functional.softplus(torch.where(right, -above, above)), right | wrong, (right | wrong).sum(dim=1)
    )
    return torch.where(counts > 0, compared, alone)


def centring_penalty(
    demonstration_rewards: torch.Tensor, completion_rewards: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the squared mean reward of each prompt's pool, the demonstration included.

    `maxent` and `bradley_terry` see differences of rewards alone; this fixes their level, so that categories can be
    compared.

    Args:
        demonstration_rewards: r_E, (P,).
        completion_rewards: r_k, (P, K).
        mask: true where there is a completion, bool, (P, K).

    Returns:
        ((r_E + sum_k r_k) / (K + 1))^2 per prompt, (P,).

    Raises:
        ValueError: shapes do not fit.
    """
    counts = _checked(demonstration_rewards, completion_rewards, mask, 1.0)
    total = demonstration_rewards + completion_rewards.masked_fill(~mask, 0.0).sum(dim=1)
    return (total / (counts + 1)).square()


def _checked(demonstration: torch.Tensor, completions: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """Check shapes and beta; return completions per prompt, (P,)."""
    fits = demonstration.ndim == 1 and completions.ndim == 2 and completions.shape[0] == demonstration.shape[0]
    if not fits or mask.shape != completions.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"rewards have shapes {tuple(demonstration.shape)} and {tuple(completions.shape)} with a {mask.dtype} mask "
            f"{tuple(mask.shape)}; give (P,), (P, K) and a bool mask (P, K)"
        )
    if beta <= 0:
        raise ValueError(f"beta is {beta}; it must be above 0")
    return mask.sum(dim=1)


def _require_completions(counts: torch.Tensor) -> None:
    if (counts == 0).any():
        first = int((counts == 0).nonzero()[0])
        raise ValueError(f"prompt {first} has no completion to compare its demonstration with; leave such prompts out")


def _masked_mean(values: torch.Tensor, mask: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(~mask, 0.0).sum(dim=1) / counts
