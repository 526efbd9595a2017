"""Preference pairs that lie in the completion pools: the demonstration over what a policy said wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drirl_core.rewards.pairs import PoolPrompt, is_right


def preference_pairs(prompts: Sequence[PoolPrompt], category: str) -> list[dict[str, Any]]:
    """Pair each training prompt's demonstration with every sampled completion of the wrong kind.

    Wrong is, by the rules judge, an answer to an unsafe prompt and a refusal of a harmless one. Completions that were
    not sampled, and those that are empty, degenerate or an echo, make no pair: a policy learns nothing about itself
    from them.

    Args:
        prompts: prompts of the category with their pools.
        category: name of the category.

    Returns:
        Rows `prompt`, `chosen` and `rejected` (messages), `prompt_id` and `category`; equal completions of a prompt
        give one row.
    """
    rows = []
    for prompt in prompts:
        wrong = [reply.answer for reply in prompt.replies if is_right(prompt, reply) is False]
        rows += [
            {
                "prompt": [{"role": "user", "content": prompt.prompt}],
                "chosen": [{"role": "assistant", "content": prompt.answer}],
                "rejected": [{"role": "assistant", "content": answer}],
                "prompt_id": prompt.prompt_id,
                "category": category,
            }
            for answer in dict.fromkeys(wrong)
            if prompt.split == "train"
        ]
    return rows
