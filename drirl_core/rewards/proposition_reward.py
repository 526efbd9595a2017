"""A reward that is linear in readable propositions: a control that a learned reward must beat.

r(x, y) = sum_j w_kj phi_j(x, y), where phi_j is 1 if proposition j holds of the reply, and k is the kind of the prompt,
harmful or harmless. The weights minimise the maximum-entropy IRL loss of the reward models (`objectives.maxent_loss`)
plus a ridge penalty, which is strictly convex: there is one solution, and no seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import UNUSABLE
from drirl_core.config import RewardsConfig
from drirl_core.errors import ArtifactError, DataError, TrainingError
from drirl_core.rewards.objectives import maxent_loss
from drirl_core.rewards.pairs import UNSAFE, PoolPrompt
from drirl_core.rewards.propositions import PROPOSITIONS, Said, truths
from drirl_core.text.words import words

HARMFUL, HARMLESS = "harmful", "harmless"
KINDS = (HARMFUL, HARMLESS)
RIDGE = 0.01
"""Weight of the squared weights in the loss, which is a mean over prompts."""
FILE = "propositions.json"

_DIGITS = 6
_ORDINARY = (0.025, 0.975)
"""Quantiles of the demonstrations' lengths between which a length is ordinary."""
_TOLERANCE = 1e-7
"""Largest norm of the gradient at a solution."""
_LEAST_SCALE = 1e-9


@dataclass(frozen=True)
class KindWeights:
    """The reward of one kind of prompt.

    Args:
        weights: by proposition, finite.
        bounds: fewest and most words of an ordinary answer.
        mean: of the rewards over the training pool.
        scale: their standard deviation, above 0.
        worst: the lowest of them, before normalising.
    """

    weights: Mapping[str, float]
    bounds: tuple[int, int]
    mean: float
    scale: float
    worst: float

    def rewards(self, said: list[Said]) -> np.ndarray:
        """Return normalised rewards of replies, float64, (N,); unusable text gets `worst` at most."""
        raw = truths(said) @ np.array([self.weights[name] for name in PROPOSITIONS])
        unusable = np.array([one.label in UNUSABLE for one in said], dtype=bool)
        return (np.where(unusable, np.minimum(raw, self.worst), raw) - self.mean) / self.scale


class PropositionReward:
    """Reward replies by the propositions that hold of them.

    Args:
        kinds: weights for `harmful` and `harmless` prompts.
    """

    def __init__(self, kinds: Mapping[str, KindWeights]) -> None:
        self.kinds = dict(kinds)

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        """Return the rewards of a batch, as `RewardRouter.rewards`.

        Args:
            prompts: B user messages.
            completions: B completions; drafts are cut off.
            categories: category of each row; `helpful` marks harmless prompts.

        Returns:
            float64, (B,), of mean 0 and standard deviation 1 over the training pool of each kind.
        """
        values = np.zeros(len(prompts))
        names = np.array([HARMLESS if category == taxonomy.HELPFUL else HARMFUL for category in categories])
        texts = list(zip(prompts, completions, strict=True))
        for kind, known in self.kinds.items():
            rows = np.flatnonzero(names == kind)
            values[rows] = known.rewards([Said.of(*texts[row], known.bounds) for row in rows])
        return values

    def save(self, folder: Path) -> None:
        """Write the weights as JSON."""
        data = {kind: asdict(known) for kind, known in self.kinds.items()}
        (folder / FILE).write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_proposition_reward(folder: Path) -> PropositionReward:
    """Read what `PropositionReward.save` wrote.

    Raises:
        ArtifactError: the file is missing or damaged, or was made with other propositions.
    """
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        kinds = {kind: _kind(data[kind]) for kind in KINDS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"{folder / FILE} cannot be read ({error!r}); materialize proposition_reward again"
        ) from error
    return PropositionReward(kinds)


def _kind(data: Mapping[str, Any]) -> KindWeights:
    weights = {name: float(data["weights"][name]) for name in PROPOSITIONS}
    low, high = map(int, data["bounds"])
    return KindWeights(weights, (low, high), *(float(data[name]) for name in ("mean", "scale", "worst")))


def kind_of(prompt: PoolPrompt) -> str:
    """Return `harmful` or `harmless`."""
    return HARMFUL if prompt.kind == UNSAFE else HARMLESS


def fit_kind(
    prompts: Sequence[PoolPrompt], config: RewardsConfig, kind: str
) -> tuple[KindWeights, list[dict[str, Any]]]:
    """Fit the weights of one kind of prompt; the same arguments give the same weights.

    Args:
        prompts: training prompts of the kind with the completions that count against their demonstrations.
        config: `beta` and `include_demonstration`.
        kind: `harmful` or `harmless`.

    Returns:
        The weights, and a row per proposition: `kind`, `proposition`, `meaning`, `weight`, and the shares of
        `demonstrations` and `completions` of which it is true, both in [0, 1].

    Raises:
        DataError: there is no prompt.
        TrainingError: the fit did not converge, or no proposition tells demonstrations from completions.
    """
    if not prompts:
        raise DataError(f"the proposition reward has no {kind} training prompt; raise demonstrations.quota")
    lengths = [len(words(p.answer)) for p in prompts]
    low, high = (round(float(np.quantile(lengths, share))) for share in _ORDINARY)
    own = truths([Said.of(p.prompt, p.answer, (low, high)) for p in prompts])  # (P, J)
    replies = [Said.of(p.prompt, reply.answer, (low, high)) for p in prompts for reply in p.replies]
    others = truths(replies)  # (all completions, J)
    found = np.round(_solve(own, others, [len(p.replies) for p in prompts], config), _DIGITS)
    raw = np.concatenate([own, others]) @ found
    mean, scale = (round(float(value), _DIGITS) for value in (raw.mean(), raw.std()))
    if scale <= _LEAST_SCALE:
        raise TrainingError(
            f"{kind}: no proposition tells demonstrations from completions, so that the reward is constant over "
            f"{len(raw)} training rows; check that demonstrations and completions differ"
        )
    shares = {"demonstrations": own.mean(axis=0), "completions": others.mean(axis=0)}
    rows = [
        {
            "kind": kind,
            "proposition": name,
            "meaning": one.meaning,
            "weight": float(found[j]),
            **{side: float(share[j]) for side, share in shares.items()},
        }
        for j, (name, one) in enumerate(PROPOSITIONS.items())
    ]
    weights = {row["proposition"]: row["weight"] for row in rows}
    return KindWeights(weights, (low, high), mean, scale, round(float(raw.min()), _DIGITS)), rows


def _solve(own: np.ndarray, others: np.ndarray, counts: Sequence[int], config: RewardsConfig) -> np.ndarray:
    """Minimise mean_p loss_p + RIDGE |w|^2 by Newton's method within a trust region.

    Args:
        own: truths of the demonstrations, (P, J).
        others: truths of all completions, prompt by prompt, (N, J).
        counts: completions of each prompt, at least 1.
        config: `beta` and `include_demonstration`.

    Returns:
        Weights, float64, (J,).

    Raises:
        TrainingError: the gradient did not come down.
    """
    mask = torch.arange(max(counts)).unsqueeze(0) < torch.tensor(list(counts)).unsqueeze(1)  # (P, K)
    left, right = torch.tensor(own), torch.zeros(*mask.shape, own.shape[1], dtype=torch.float64)
    right[mask] = torch.tensor(others)  # prompt by prompt, as the rows are

    def objective(weights: torch.Tensor) -> torch.Tensor:
        losses = maxent_loss(left @ weights, right @ weights, mask, config.beta, config.include_demonstration)
        return losses.mean() + RIDGE * weights.square().sum()

    def at(derivative: Callable[..., Any]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda weights: derivative(torch.from_numpy(weights)).numpy()

    found = minimize(
        at(objective),
        np.zeros(own.shape[1]),
        method="trust-exact",
        jac=at(torch.func.grad(objective)),
        hess=at(torch.func.hessian(objective)),
        options={"gtol": _TOLERANCE},
    )
    if not found.success:
        raise TrainingError(
            f"the weights of the propositions did not converge: {found.message} The gradient is still "
            f"{float(np.abs(found.jac).max()):.2g}; raise rewards.beta ({config.beta})"
        )
    return found.x
