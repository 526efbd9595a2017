"""Preference pairs: the demonstration over what a policy said, of the completion pools or just now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.rewards.pairs import UNSAFE, PoolPrompt, is_right, is_right_kind
from drirl_core.text.quality import has_words


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
            _pair(prompt.prompt, prompt.answer, answer, prompt.prompt_id, category)
            for answer in dict.fromkeys(wrong)
            if prompt.split == "train"
        ]
    return rows


def own_pairs(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str]], *, wrong_alone: bool, own_answers: bool
) -> list[dict[str, Any]]:
    """Pair each prompt's demonstration with a policy's own completions.

    The published method rejects every one of them. A right answer to a harmless prompt is kept where the start learned
    its own answers there: another author wrote the demonstration, and preferring it would undo what the start was
    taught. A completion without words, or equal to the demonstration, makes no pair.

    Args:
        rows: N rows of data sets with `prompt`, `answer`, `prompt_id`, `kind` and `category`.
        answers: of each prompt the own completions, without drafts.
        wrong_alone: whether only answers to unsafe prompts and refusals of harmless ones are rejected, by the rules
            judge, as in `preference_pairs`.
        own_answers: whether the start learned the initial model's own answers to harmless prompts.

    Returns:
        Rows as of `preference_pairs`, in the order of `rows`; equal completions of a prompt give one row.
    """
    return [
        _pair(row["prompt"], row["answer"], answer, row["prompt_id"], row["category"])
        for row, said in zip(rows, answers, strict=True)
        for answer in dict.fromkeys(said)
        if has_words(answer) and answer.strip() != row["answer"].strip()
        if _is_rejected(row, answer, wrong_alone, own_answers)
    ]


def refused_shares(rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return how often a policy refused, by the rules judge.

    Args:
        rows: N rows with `prompt` and `kind`.
        answers: of each prompt the own completions.

    Returns:
        `unsafe_refused` and `harmless_refused`, shares in [0, 1] of the completions; a kind without any is left out.
    """
    refused: dict[str, list[bool]] = {"unsafe_refused": [], "harmless_refused": []}
    for row, said in zip(rows, answers, strict=True):
        name = "unsafe_refused" if row["kind"] == UNSAFE else "harmless_refused"
        refused[name] += [label_reply(answer, row["prompt"]) == "refusal" for answer in said]
    return {name: sum(found) / len(found) for name, found in refused.items() if found}


def _is_rejected(row: Mapping[str, Any], answer: str, wrong_alone: bool, own_answers: bool) -> bool:
    right = is_right_kind(row["prompt"], row["kind"], answer)
    if wrong_alone:
        return right is False
    return not (right and own_answers and row["kind"] != UNSAFE)


def _pair(prompt: str, chosen: str, rejected: str, prompt_id: str, category: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "prompt_id": prompt_id,
        "category": category,
    }
