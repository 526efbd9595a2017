"""Rewards over hidden states of a frozen policy that processes hold in parts, as they hold the one that is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import gather_object

from drirl_core.config import ModelsConfig
from drirl_core.models.hidden_states import read_rows
from drirl_core.models.loading import load_policy
from drirl_core.policy.rollout import message_text
from drirl_core.policy.scoring import RolloutScorer
from drirl_core.text.chain_of_draft import cut_draft


def read_together(scorer: RolloutScorer, models: ModelsConfig, shards: int) -> Callable[..., list[float]]:
    """Return the reward function of a scorer; rewards over hidden states then read a frozen policy that is sharded too.

    Before each call all processes read the rows of all of them, because they have to make equal passes.

    Args:
        scorer: rewards the completions.
        models: names the frozen policy.
        shards: processes of the group of this one that hold a part of the weights each; 1 changes nothing.

    Raises:
        ModelError: the policy cannot be loaded.
    """
    if shards == 1 or scorer.reads is None:
        return scorer.reward
    source, layer = scorer.reads
    policy = load_policy(models.policy, models, shards)

    @functools.wraps(scorer.reward)  # TRL logs its rewards under its name
    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        named = zip(prompts, columns["prompt_id"], columns["demonstration"], strict=True)
        rows = [{"prompt": prompt, "prompt_id": name, "demonstration": text} for prompt, name, text in named]
        shown, demonstrations = scorer.unrewarded(rows)
        asked = [message_text(prompt) for prompt in prompts] + shown
        answers = [cut_draft(message_text(completion)) for completion in completions] + demonstrations
        lacking = source.lacking(asked, answers, layer)
        source.offer(layer, read_rows(policy, sorted(set(gather_object(lacking))), layer))
        return scorer.reward(prompts, completions, **columns)

    return reward
