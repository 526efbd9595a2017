import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.rewards.objectives import (
    balanced_weights,
    bradley_terry_loss,
    centring_penalty,
    classifier_loss,
    linear_loss,
    maxent_loss,
)

LN = math.log


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_maxent_with_the_demonstration_in_the_pool():
    """r_E = ln 4, r_k = ln 1, ln 3: -(ln 4 - ln((4 + 1 + 3) / 3)) = ln(2 / 3)."""
    loss = maxent_loss(torch.tensor([LN(4)]), torch.tensor([[0.0, LN(3)]]), mask([1, 1]), 1.0)
    torch.testing.assert_close(loss, torch.tensor([LN(2 / 3)]))


def test_maxent_without_the_demonstration():
    """r_E = ln 4, r_k = ln 1, ln 3: -(ln 4 - ln((1 + 3) / 2)) = -ln 2."""
    loss = maxent_loss(
        torch.tensor([LN(4)]), torch.tensor([[0.0, LN(3)]]), mask([1, 1]), 1.0, include_demonstration=False
    )
    torch.testing.assert_close(loss, torch.tensor([-LN(2)]))


def test_maxent_divides_rewards_by_beta():
    """beta = 2 and rewards doubled: the same ln(2 / 3)."""
    loss = maxent_loss(torch.tensor([2 * LN(4)]), torch.tensor([[0.0, 2 * LN(3)]]), mask([1, 1]), 2.0)
    torch.testing.assert_close(loss, torch.tensor([LN(2 / 3)]))


def test_maxent_counts_only_what_the_mask_shows():
    """Second prompt has one completion: -(ln 4 - ln((4 + 2) / 2)) = ln(3 / 4), whatever the empty place holds."""
    rewards = torch.tensor([[0.0, LN(3)], [LN(2), math.inf]])
    loss = maxent_loss(torch.tensor([LN(4), LN(4)]), rewards, mask([1, 1], [1, 0]), 1.0)
    torch.testing.assert_close(loss, torch.tensor([LN(2 / 3), LN(3 / 4)]))


def test_bradley_terry():
    """Gaps ln 3 and 0: (ln(1 + 1/3) + ln 2) / 2; the masked third has no part."""
    loss = bradley_terry_loss(torch.tensor([LN(3)]), torch.tensor([[0.0, LN(3), 99.0]]), mask([1, 1, 0]), 1.0)
    torch.testing.assert_close(loss, torch.tensor([(LN(4 / 3) + LN(2)) / 2]))


def test_linear():
    """r_E = 2, r_k = 0, 1, l2 = 0.5: -(2 - 0.5) + 0.5 (4 + 0.5) = 0.75."""
    loss = linear_loss(torch.tensor([2.0]), torch.tensor([[0.0, 1.0]]), mask([1, 1]), 0.5)
    torch.testing.assert_close(loss, torch.tensor([0.75]))


def test_classifier_by_hand():
    """Odds: demonstration 3, a right completion 1, a wrong one 1/3; weights 0.25, 0.25, 0.5; the masked one has none.

    0.25 ln(1 + 1/3) + 0.25 ln(1 + 1) + 0.5 ln(1 + 1/3) = 0.75 ln(4/3) + 0.25 ln 2.
    """
    rewards, weights = torch.tensor([[0.0, -LN(3), 99.0]]), torch.tensor([[0.25, 0.25, 0.5, 0.0]])
    loss = classifier_loss(torch.tensor([LN(3)]), rewards, weights, mask([1, 0, 0]), 1.0)
    torch.testing.assert_close(loss, torch.tensor([0.75 * LN(4 / 3) + 0.25 * LN(2)]))
    doubled = classifier_loss(torch.tensor([2 * LN(3)]), 2 * rewards, weights, mask([1, 0, 0]), 2.0)
    torch.testing.assert_close(doubled, loss)


def test_classifier_sends_no_gradient_to_rows_without_weight():
    others = torch.tensor([[math.inf, 1.0]], requires_grad=True)
    weights = torch.tensor([[0.5, 0.0, 0.5]])
    classifier_loss(torch.tensor([0.0]), others, weights, mask([0, 0]), 1.0).sum().backward()
    assert others.grad[0, 0] == 0
    torch.testing.assert_close(others.grad[0, 1], torch.tensor(0.5 / (1 + math.exp(-1))))


def test_balanced_weights_by_hand():
    """Right: demonstration and one of three, 1/4 each; wrong: the two others, 1/4 each. Second: no wrong one."""
    weights = balanced_weights(mask([1, 1, 1, 0], [1, 0, 0, 0]), mask([1, 0, 0, 0], [1, 0, 0, 1]))
    assert weights.tolist() == [[0.25, 0.25, 0.25, 0.25, 0.0], [0.25, 0.25, 0.0, 0.0, 0.0]]


def test_classifier_refuses_weights_of_another_shape():
    with pytest.raises(ValueError, match=r"give \(P, 1 \+ K\)"):
        classifier_loss(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), mask([1, 1]), 1.0)


def test_linear_optimum_is_where_the_docstring_says():
    """l2 = 0.25: r_E = 1 / 0.5 = 2, r_k = -2; the gradient vanishes there."""
    own, others = torch.tensor([2.0], requires_grad=True), torch.tensor([[-2.0, -2.0]], requires_grad=True)
    linear_loss(own, others, mask([1, 1]), 0.25).sum().backward()
    torch.testing.assert_close(own.grad, torch.zeros(1))
    torch.testing.assert_close(others.grad, torch.zeros(1, 2))


def test_centring_penalty():
    """((2 + 0 + 1) / 3)^2 = 1, and ((2 + 4) / 2)^2 = 9 with one completion."""
    penalty = centring_penalty(torch.tensor([2.0, 2.0]), torch.tensor([[0.0, 1.0], [4.0, 7.0]]), mask([1, 1], [1, 0]))
    torch.testing.assert_close(penalty, torch.tensor([1.0, 9.0]))


@pytest.mark.parametrize("include", [True, False])
def test_maxent_gradient_is_the_irl_gradient_with_importance_weights(include):
    """Autograd against -(1 / beta)(grad r_E - sum_k w_k grad r_k), w = softmax(r / beta), for r = theta . phi."""
    generator = torch.Generator().manual_seed(3)
    phi_own, phi_others = torch.randn(5, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    present = mask([1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1])
    theta, beta = torch.randn(4, generator=generator, requires_grad=True), 0.7
    maxent_loss(phi_own @ theta, phi_others @ theta, present, beta, include).sum().backward()
    expected = torch.zeros(4)
    for p in range(5):
        pool = phi_others[p][present[p]]
        pool = torch.cat([phi_own[p : p + 1], pool]) if include else pool
        weights = torch.softmax(pool @ theta.detach() / beta, dim=0)
        expected -= (phi_own[p] - weights @ pool) / beta
    torch.testing.assert_close(theta.grad, expected)


@pytest.mark.parametrize(
    "loss",
    [maxent_loss, lambda o, k, m, b: bradley_terry_loss(o, k, m, b), lambda o, k, m, b: linear_loss(o, k, m, 0.1)],
)
def test_masked_places_have_no_gradient_even_when_they_hold_nonsense(loss):
    own, others = torch.tensor([1.0], requires_grad=True), torch.tensor([[0.0, math.nan]], requires_grad=True)
    loss(own, others, mask([1, 0]), 1.0).sum().backward()
    assert torch.isfinite(own.grad).all()
    assert others.grad[0, 1] == 0


def test_losses_stay_finite_for_huge_rewards():
    own, others = torch.tensor([1e4, -1e4]), torch.tensor([[-1e4, 0.0], [1e4, 0.0]])
    assert torch.isfinite(maxent_loss(own, others, mask([1, 1], [1, 1]), 0.01)).all()
    assert torch.isfinite(bradley_terry_loss(own, others, mask([1, 1], [1, 1]), 0.01)).all()


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.floats(0.1, 5))
def test_including_the_demonstration_bounds_the_loss(rewards, beta):
    own, others = torch.tensor(rewards[:1]), torch.tensor([rewards[1:]])
    everything = torch.ones(1, len(rewards) - 1, dtype=torch.bool)
    loss = float(maxent_loss(own, others, everything, beta))
    assert loss >= -math.log(len(rewards)) - 1e-4


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=5), st.floats(-3, 3))
def test_comparisons_do_not_see_a_common_shift(rewards, shift):
    own, others, everything = (
        torch.tensor(rewards[:1]),
        torch.tensor([rewards[1:]]),
        torch.ones(1, len(rewards) - 1, dtype=torch.bool),
    )
    for loss in (maxent_loss, bradley_terry_loss):
        torch.testing.assert_close(
            loss(own, others, everything, 1.0), loss(own + shift, others + shift, everything, 1.0), atol=1e-4, rtol=1e-4
        )


def test_refuses_what_cannot_be_averaged():
    own, others = torch.tensor([1.0]), torch.tensor([[1.0]])
    with pytest.raises(ValueError, match="no completion"):
        maxent_loss(own, others, mask([0]), 1.0, include_demonstration=False)
    with pytest.raises(ValueError, match="no completion"):
        bradley_terry_loss(own, others, mask([0]), 1.0)
    with pytest.raises(ValueError, match="no completion"):
        linear_loss(own, others, mask([0]), 0.1)
    with pytest.raises(ValueError, match="beta is 0"):
        maxent_loss(own, others, mask([1]), 0)
    with pytest.raises(ValueError, match="shapes"):
        centring_penalty(own, torch.tensor([1.0]), mask([1]))
    with pytest.raises(ValueError, match="mask"):
        maxent_loss(own, others, torch.ones(1, 1), 1.0)
