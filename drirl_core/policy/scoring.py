"""Rewards and coefficients of rollouts.

One callable rewards all rows, each with the model of its category. If each reward model were passed to TRL, it would
be run on every row, and TRL's metric keys would collide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.errors import DataError
from drirl_core.graph.rounds import ROUND_REWARDS
from drirl_core.hardness.coefficients import AlphaBatch, Coefficients
from drirl_core.hardness.similarity import SentenceSimilarity
from drirl_core.models.embeddings import Embedder
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.policy.dual_ascent import OverRefusalBound
from drirl_core.policy.own_rewards import OwnReward, load_own_rewards
from drirl_core.policy.rollout import Processes, RolloutBatch, RolloutCoefficients, message_text
from drirl_core.policy.spread import SHARE, has_spread
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.rewards.model import serving
from drirl_core.rewards.proposition_reward import load_proposition_reward
from drirl_core.rewards.verifiable import VerifiableReward
from drirl_core.store.tables import read_table
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.thoughts import is_unfinished

if TYPE_CHECKING:
    from drirl_core.graph.build import Context


class Rewarder(Protocol):
    """Reward a batch of completions."""

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        """Return finite rewards, float64, (B,); drafts of completions are cut off."""
        ...


class RolloutScorer:
    """Reward completions, and compute alpha for a rewarded batch.

    Args:
        router: routes rows to the reward models, or is the reward of a control.
        similarity: similarity W of completion and demonstration.
        coefficients: computes alpha from similarities and reward gaps.
        bound: weights harmful against harmless rows, or None.
        min_spread: standard deviation of rewards below which a group weighs nothing, and G; None is off.
        own: functions of the user's own, whose weighted values are added to the rewards.
    """

    def __init__(
        self,
        router: Rewarder,
        similarity: SentenceSimilarity,
        coefficients: Coefficients,
        bound: OverRefusalBound | None = None,
        min_spread: tuple[float, int] | None = None,
        own: Sequence[OwnReward] = (),
    ) -> None:
        self._router, self._similarity, self._coefficients = router, similarity, coefficients
        self._bound, self._min_spread, self._own = bound, min_spread, tuple(own)
        self._demonstration_rewards: dict[str, float] = {}

    @property
    def reads(self) -> tuple[HiddenStates, int] | None:
        """Hidden states and number of the layer that the rewards read; None where they do not all read one layer."""
        return self._router.reads if isinstance(self._router, RewardRouter) else None

    def unrewarded(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
        """Return prompts and answers of the demonstrations of training rows that have no reward yet, each once."""
        found = {row["prompt_id"]: row for row in rows if row["prompt_id"] not in self._demonstration_rewards}
        prompts = [message_text(row["prompt"]) for row in found.values()]
        return prompts, [cut_draft(row["demonstration"]) for row in found.values()]

    def reward(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Reward each completion with the model of its category; this is TRL's reward function.

        Args:
            prompts: messages, one list per row.
            completions: messages, one list per row; thoughts and drafts are removed. A thought that never ends is an
                empty answer, and the share of those is logged.
            **columns: data set columns, of which `category` and, in messages, `prompt_id` are used, and TRL's
                `log_metric`.

        Returns:
            One reward per row.
        """
        texts = [message_text(completion) for completion in completions]
        answers = [cut_draft(text) for text in texts]
        unfinished = sum(map(is_unfinished, texts))
        if unfinished and "log_metric" in columns:
            columns["log_metric"]("completions/unfinished_thoughts", unfinished / len(texts))
        asked = [message_text(prompt) for prompt in prompts]
        ids = columns.get("prompt_id", [""] * len(texts))
        rewards, means = self._rewards(asked, answers, columns["category"], ids)
        if "log_metric" in columns:
            for name, mean in means.items():
                columns["log_metric"](name, mean)
        return [float(value) for value in rewards]

    def _rewards(
        self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str], ids: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Return the router's rewards plus the weighted ones of the user's functions, (B,), and the means of those."""
        rewards, means = self._router.rewards(prompts, completions, categories), {}
        for one in self._own:
            values = one.values(prompts, completions, categories, ids)
            rewards, means[one.metric] = rewards + one.weight * values, float(values.mean())
        return rewards, means

    def coefficients(self, batch: RolloutBatch, processes: Processes) -> RolloutCoefficients:
        """Return alpha for the rows of `batch`, with statistics overall and per category; see `CoefficientSource`."""
        rows = processes.gather(self._scored(batch))  # alpha is normalised over the generation batch of all processes
        for row in rows:  # each process has the state of all, so that a checkpoint holds it
            self._demonstration_rewards.setdefault(row["prompt_id"], row["demonstration_reward"])
        categories, kinds, refused = ([row[name] for row in rows] for name in ("category", "kind", "refused"))
        similarities, gaps, rewards = (
            np.array([row[name] for row in rows]) for name in ("similarity", "gap", "reward")
        )
        found = self._coefficients.compute(similarities, gaps, categories, [row["prompt_id"] for row in rows])
        metrics = {**_describe(categories, gaps, rewards, found), **_refused_shares(kinds, refused)}
        weighted = found.alpha
        if self._bound is not None:
            weighted = weighted * self._bound.weights(kinds, refused)
            weighted /= weighted.mean()
            metrics["over_refusal/log_multiplier"] = self._bound.log_multiplier
        if self._min_spread is not None:  # last, so that no other group's weight changes
            least, group = self._min_spread
            kept = has_spread(rewards, group, least)
            weighted, metrics[SHARE] = weighted * kept, float(1 - kept.mean())
        start = processes.index * len(batch)
        return RolloutCoefficients(weighted[start : start + len(batch)], metrics)

    def _scored(self, batch: RolloutBatch) -> list[dict[str, Any]]:
        """Return what the coefficients need of each row of this process, as plain data that can be sent."""
        harm, similarities = np.flatnonzero(batch.harm), np.ones(len(batch))
        answers = [cut_draft(completion) for completion in batch.completions]
        if len(harm):
            demonstrations = [batch.demonstrations[i] for i in harm]
            similarities[harm] = self._similarity.similarity(demonstrations, [answers[i] for i in harm])
        expert = self._expert_rewards(batch)
        gaps = expert - batch.rewards
        return [
            {
                "category": batch.categories[i],
                "kind": batch.kinds[i],
                "prompt_id": batch.prompt_ids[i],
                "similarity": float(similarities[i]),
                "gap": float(gaps[i]),
                "demonstration_reward": float(expert[i]),
                "reward": float(batch.rewards[i]),
                "refused": label_reply(answers[i], batch.prompts[i]) == "refusal",
            }
            for i in range(len(batch))
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an interrupted run needs, as JSON data.

        The rewards of the demonstrations are part of it: recomputed among other rows, one may differ in its last bit.
        """
        return {
            "coefficients": self._coefficients.state_dict(),
            "demonstration_rewards": dict(self._demonstration_rewards),
            **({"over_refusal": self._bound.state_dict()} if self._bound else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of an interrupted run."""
        self._coefficients.load_state_dict(state["coefficients"])
        self._demonstration_rewards = dict(state["demonstration_rewards"])
        if self._bound:
            self._bound.load_state_dict(state["over_refusal"])

    def _expert_rewards(self, batch: RolloutBatch) -> np.ndarray:
        """Return the reward of each row's demonstration, (B,); each demonstration is rewarded once per run."""
        unknown = {key: row for row, key in enumerate(batch.prompt_ids) if key not in self._demonstration_rewards}
        if unknown:
            rewards, _ = self._rewards(
                [batch.prompts[row] for row in unknown.values()],
                [batch.demonstrations[row] for row in unknown.values()],
                [batch.categories[row] for row in unknown.values()],
                list(unknown),
            )
            self._demonstration_rewards.update(zip(unknown, map(float, rewards), strict=True))
        return np.array([self._demonstration_rewards[key] for key in batch.prompt_ids])


def load_scorer(context: Context) -> RolloutScorer:
    """Make the scorer of a policy stage from its rewards (`policy.reward`) and hardness tables.

    Raises:
        DataError: a hardness artifact cannot be read, or lacks what `hardness.refresh` needs.
    """
    config = context.config
    embedder = Embedder(config.models, context.store)
    constants = {
        category: _read_constants(path / "constants.json") for category, path in context.named("hardness").items()
    }
    stored = alpha_of_prompts(context)
    coefficients = Coefficients(config.hardness, config.seed_of(config.policy), stored, constants)
    bound = OverRefusalBound(config.policy.over_refusal, config.policy.over_refusal_step)
    return RolloutScorer(
        _rewarder(context, embedder),
        SentenceSimilarity(embedder, config.hardness),
        coefficients,
        bound if config.policy.over_refusal else None,
        (config.policy.min_spread, config.policy.num_generations) if config.policy.min_spread else None,
        load_own_rewards(config.policy.own_rewards),
    )


def alpha_of_prompts(context: Context) -> dict[str, float]:
    """Return alpha by id of the prompt, from all hardness tables; harmless prompts have none.

    Raises:
        DataError: a table cannot be read.
    """
    tables = context.named("hardness").values()
    return {row["prompt_id"]: row["alpha"] for path in tables for row in read_table(path / "hardness.parquet")}


def _rewarder(context: Context, embedder: Embedder) -> Rewarder:
    """Return who rewards the rollouts, by `policy.reward`."""
    if context.config.policy.reward == "verifiable":
        return VerifiableReward()
    if context.config.policy.reward == "propositions":
        return load_proposition_reward(context.inputs["proposition_reward"])
    return _learned(context, embedder)


def _learned(context: Context, embedder: Embedder) -> RewardRouter:
    joint = context.inputs.get("joint_reward_model")
    if joint is None:
        stage = next((name for name in ROUND_REWARDS if context.named(name)), "reward_model")  # those of one round
        models = {name: load_reward_model(path) for name, path in context.named(stage).items()}
    else:
        categories = (*context.named("hardness"), taxonomy.HELPFUL)
        models = {name: serving(load_reward_model(joint), name) for name in categories}
    # Rollouts never come twice, so their hidden states are not kept.
    return RewardRouter(models, embedder, HiddenStates(context.config.models, context.store, keep=False))


def _read_constants(file: Path) -> dict[str, float]:
    try:
        constants = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(constants[name]) for name in ("mean_delta", "mean_gap")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); materialize the hardness of this category again") from error


def _refused_shares(kinds: Sequence[str], refused: Sequence[bool]) -> dict[str, float]:
    """Return the refused share of the rollouts of each kind of prompt, by the rules judge."""
    names, refusing = np.array(kinds), np.array(refused, dtype=float)
    return {f"refused/{kind}": float(refusing[names == kind].mean()) for kind in sorted(set(kinds))}


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
