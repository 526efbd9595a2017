"""Rewards and coefficients of a generation batch.

One callable rewards all rows, each by its own category's model. A reward model passed per category would be run on
every row, and TRL's metric keys would collide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from drirl_core import taxonomy
from drirl_core.text.chain_of_draft import cut_draft

if TYPE_CHECKING:
    import torch

    from drirl_core.hardness.coefficients import AlphaBatch, Coefficients
    from drirl_core.hardness.similarity import SentenceSimilarity
    from drirl_core.rewards import RewardRouter


class RolloutScorer:
    """Reward completions, and give alpha for the same rows.

    Args:
        router: routes rows to the reward models.
        similarity: similarity W of completion and demonstration.
        coefficients: make alpha from similarities and reward gaps.
    """

    def __init__(self, router: RewardRouter, similarity: SentenceSimilarity, coefficients: Coefficients) -> None:
        self._router, self._similarity, self._coefficients = router, similarity, coefficients
        self._demonstration_rewards: dict[str, float] = {}
        self._answers: list[str] = []
        self._metrics: dict[str, float] = {}

    def reward(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Reward each completion by its own category's model; TRL's reward function.

        Args:
            prompts: messages, one list a row.
            completions: messages, one list a row.
            **columns: data set columns; `category` is used.

        Returns:
            One reward a row.
        """
        self._answers = [cut_draft(_text(completion)) for completion in completions]
        rewards = self._router.rewards([_text(prompt) for prompt in prompts], self._answers, columns["category"])
        return [float(value) for value in rewards]

    def __call__(self, rows: list[dict[str, Any]], rewards: torch.Tensor, gather: Any) -> torch.Tensor:
        """Return alpha for the rows of the last call of `reward`; see `trainer.CoefficientSource`."""
        import torch

        harm = [i for i, row in enumerate(rows) if row["category"] != taxonomy.HELPFUL]
        similarities = np.ones(len(rows))
        if harm:
            demonstrations = [rows[i]["demonstration"] for i in harm]
            similarities[harm] = self._similarity.similarity(demonstrations, [self._answers[i] for i in harm])
        gaps = self._expert_rewards(rows) - rewards.double().cpu().numpy()
        local = [
            (row["category"], row["prompt_id"], float(s), float(g), float(r))
            for row, s, g, r in zip(rows, similarities, gaps, rewards, strict=True)
        ]
        everyone = gather(local)  # alpha is normalised over the generation batch of all processes
        categories, groups, all_similarities, all_gaps, all_rewards = (
            list(column) for column in zip(*everyone, strict=True)
        )
        batch = self._coefficients.compute(np.array(all_similarities), np.array(all_gaps), categories, groups)
        self._metrics = _describe(categories, np.array(all_gaps), np.array(all_rewards), batch)
        start = _rank() * len(local)
        return torch.from_numpy(batch.alpha[start : start + len(local)])

    def metrics(self) -> dict[str, float]:
        """Return alpha and gap statistics of the last batch, overall and a category."""
        return dict(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a kill, as JSON data.

        The rewards of the demonstrations are part of it: computed among other rows, one may differ in its last bit.
        """
        return {
            "coefficients": self._coefficients.state_dict(),
            "demonstration_rewards": dict(self._demonstration_rewards),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        self._coefficients.load_state_dict(state["coefficients"])
        self._demonstration_rewards = dict(state["demonstration_rewards"])

    def _expert_rewards(self, rows: list[dict[str, Any]]) -> np.ndarray:
        unknown = {row["prompt_id"]: row for row in rows if row["prompt_id"] not in self._demonstration_rewards}
        if unknown:
            texts = list(unknown.values())
            rewards = self._router.rewards(
                [_text(row["prompt"]) for row in texts],
                [row["demonstration"] for row in texts],
                [row["category"] for row in texts],
            )
            self._demonstration_rewards.update(zip(unknown, map(float, rewards), strict=True))
        return np.array([self._demonstration_rewards[row["prompt_id"]] for row in rows])


def _describe(categories: list[str], gaps: np.ndarray, rewards: np.ndarray, batch: AlphaBatch) -> dict[str, float]:
    names, alpha = np.array(categories), batch.alpha
    safety = names != taxonomy.HELPFUL
    shown = {"alpha/mean": alpha.mean(), "alpha/std": alpha.std(), "alpha/min": alpha.min(), "alpha/max": alpha.max()}
    if safety.any():
        shown["alpha_d/mean"] = batch.alpha_d[safety].mean()
        shown["alpha_m/mean"] = batch.alpha_m[safety].mean()
    for name in sorted(set(categories)):
        rows = names == name
        shown[f"alpha/{name}/mean"] = alpha[rows].mean()
        shown[f"gap/{name}/mean"] = gaps[rows].mean()
        shown[f"reward/{name}/mean"] = rewards[rows].mean()
    return {key: float(value) for key, value in shown.items()}


def _rank() -> int:
    from accelerate import PartialState

    return PartialState().process_index


def _text(messages: Any) -> str:
    return messages if isinstance(messages, str) else str(messages[-1]["content"])
