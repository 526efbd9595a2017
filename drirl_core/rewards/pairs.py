"""The pairs that rewards are learned and measured on: each prompt's demonstration and its completion pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import UNUSABLE, label_reply, right_label
from drirl_core.completions.policies import ROUNDS, SAMPLED, SFT_START, likely_right
from drirl_core.errors import DataError
from drirl_core.text.quality import has_words

CORRUPTED = "corrupted"
"""Policy name of degenerate demonstrations in a pool."""
UNSAFE = "unsafe"
"""Kind of a prompt that is to be refused."""


@dataclass(frozen=True)
class Reply:
    """One completion of a pool.

    Args:
        policy: who wrote it: `base`, `sft`, the policy of an earlier round (`round_1`), or a kind of contrast:
            `compliance`, `refusal`, `hedged`, `off_topic` or `corrupted`.
        sample: its number among that policy's completions of the prompt.
        answer: the text without a draft.
    """

    policy: str
    sample: int
    answer: str


@dataclass(frozen=True)
class PoolPrompt:
    """A prompt with its demonstration and its completions.

    Args:
        prompt_id: content hash.
        prompt: the user message.
        split: `train`, `validation` or `test`.
        demonstration: as written, with the draft where there is one.
        answer: the demonstration without its draft.
        replies: its completions, at least one.
        kind: `unsafe`, or `look_alike` or `general` for a harmless prompt.
    """

    prompt_id: str
    prompt: str
    split: str
    demonstration: str
    answer: str
    replies: tuple[Reply, ...]
    kind: str = UNSAFE


def join_pool(
    rows: Sequence[Mapping[str, Any]], completions: Sequence[Mapping[str, Any]], name: str
) -> list[PoolPrompt]:
    """Join a data set with its completion pool.

    Args:
        rows: rows of `rows.parquet`; resampled copies are left out, as a copy would only count a prompt twice.
        completions: rows of `completions.parquet`.
        name: of the category, for messages.

    Returns:
        One entry per prompt, sorted by prompt_id; completions sorted by policy and sample.

    Raises:
        DataError: a prompt has no completion, a completion has no prompt, or a split that learning needs is empty.
    """
    found: dict[str, list[Reply]] = {}
    for row in completions:
        found.setdefault(row["prompt_id"], []).append(Reply(row["policy"], int(row["sample"]), row["answer"]))
    originals = {row["prompt_id"]: row for row in rows if row["origin"] != "resampled"}
    strangers, lonely = sorted(set(found) - set(originals)), sorted(set(originals) - set(found))
    if strangers or lonely:
        raise DataError(
            f"{name}: data set and completion pool do not belong together: {len(lonely)} prompts without "
            f"completions (such as {lonely[:1]}), {len(strangers)} completed prompts that are not in the data set "
            f"(such as {strangers[:1]}); "
            f"materialize completion_pool_{name} again"
        )
    prompts = [
        PoolPrompt(
            key,
            row["prompt"],
            row["split"],
            row["demonstration"],
            row["answer"],
            tuple(sorted(found[key], key=lambda r: (r.policy, r.sample))),
            row["kind"],
        )
        for key, row in sorted(originals.items())
    ]
    counts = {split: sum(p.split == split for p in prompts) for split in ("train", "validation")}
    if not all(counts.values()):
        raise DataError(
            f"{name}: reward learning needs training and validation prompts, there are {counts}; "
            "raise demonstrations.quota or its fractions"
        )
    return prompts


def without_likely_right(prompts: Sequence[PoolPrompt], category: str, own_answers: bool = False) -> list[PoolPrompt]:
    """Leave the samples that are likely to be right out of the pools; see `likely_right`.

    Of the policies of further rounds those samples stay that the rules judge finds wrong: such a policy refuses most
    unsafe prompts and answers most harmless ones, and the rest is what it got away with under the rewards so far. What
    is neither refusal nor answer is left out too, because its reward is set by rule.

    Args:
        prompts: prompts with their pools, of one category or of all.
        category: whose prompts they are, for messages.
        own_answers: whether the start learned the initial model's own answers to harmless prompts.

    Raises:
        DataError: a prompt has no other completion.
    """
    right = {
        kind: likely_right(UNSAFE if kind == UNSAFE else taxonomy.HELPFUL, own_answers)
        for kind in {p.kind for p in prompts}
    }
    rest = [
        replace(p, replies=tuple(reply for reply in p.replies if _is_likely_wrong(p, reply, right[p.kind])))
        for p in prompts
    ]
    bare = [p for p in rest if not p.replies]
    if bare:
        policies = " and ".join(right[bare[0].kind])
        raise DataError(
            f"{category}: {len(bare)} of {len(rest)} prompts have completions of {policies} alone, and "
            "`rewards.negatives: likely_wrong` sets none of them against the demonstration; sample both policies "
            "(completions.samples: {base: 1, sft: 2}), have some made to contrast (completions.contrast), or set "
            "rewards.negatives to all"
        )
    return rest


def _is_likely_wrong(prompt: PoolPrompt, reply: Reply, right: Sequence[str]) -> bool:
    if reply.policy in ROUNDS:
        return is_right(prompt, reply) is False
    return reply.policy not in right


def with_positives(
    prompts: Sequence[PoolPrompt], positives: Literal["demonstrations", "start", "both"], category: str
) -> list[PoolPrompt]:
    """Put right samples of the SFT start in the place of the demonstrations, or beside them.

    A demonstration differs from a policy's sample in style as well as in what it says; a sample of the start differs
    from one of the initial model in little else than what fine-tuning taught it (AfD, arXiv 2405.15624). A start also
    refuses harmless prompts and answers unsafe ones, so only the samples that `is_right` finds right are positives.

    Args:
        prompts: prompts with their pools, of one category or of all.
        positives: `demonstrations` changes nothing.
        category: whose prompts they are, for messages.

    Returns:
        One entry per positive, in the order of the prompts, the demonstration first: its `demonstration` and `answer`
        are the positive, and its replies those that are no positives. Equal samples of a prompt are one positive.

    Raises:
        DataError: a prompt has nothing but positives, or in the place of the demonstrations a split that learning
            needs has no positive.
    """
    if positives == "demonstrations":
        return list(prompts)
    entries: list[PoolPrompt] = []
    for p in prompts:
        right = [reply for reply in p.replies if reply.policy == SFT_START and is_right(p, reply)]
        rest = tuple(reply for reply in p.replies if reply not in right)
        if not rest:
            raise DataError(
                f"{category}: all completions of {p.prompt_id} are positives (rewards.positives: {positives}), and "
                "nothing is set against them; sample the initial model as well (completions.samples.base), or have "
                "some completions made to contrast (completions.contrast)"
            )
        texts = dict.fromkeys(reply.answer for reply in right)
        entries += [replace(p, replies=rest)] if positives == "both" else []
        entries += [replace(p, demonstration=text, answer=text, replies=rest) for text in texts]
    empty = [split for split in ("train", "validation") if not any(p.split == split for p in entries)]
    if empty and any(p.split == empty[0] for p in prompts):
        raise DataError(
            f"{category}: rewards.positives is {positives}, but no sample of the SFT start is right on a prompt of the "
            f"split {empty[0]}; raise completions.samples.sft, or set rewards.positives to both"
        )
    return entries


@dataclass(frozen=True)
class Pool:
    """A pool as tensors: P prompts, at most K completions per prompt.

    Args:
        prompts: the P prompts.
        own: what the model's `forward` takes for the demonstrations, tensors (P, ...).
        others: what it takes for the completions, tensors (P, K, ...); zero where there is none.
        mask: true where there is a completion with words, bool, (P, K).
        corrupted: true where it is a degenerate demonstration, bool, (P, K).
        right: true where a sampled completion is of the right kind, bool, (P, K); see `is_right`.
        text_quality: of the completions, in [0, 1], float, (P, K).
    """

    prompts: tuple[PoolPrompt, ...]
    own: tuple[torch.Tensor, ...]
    others: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    corrupted: torch.Tensor
    right: torch.Tensor
    text_quality: torch.Tensor

    @classmethod
    def of(
        cls,
        prompts: Sequence[PoolPrompt],
        own: tuple[torch.Tensor, ...],
        others: tuple[torch.Tensor, ...],
        quality: Callable[[Sequence[str], Sequence[str]], np.ndarray],
    ) -> Pool:
        """Build a pool from the prompts and what a backbone read of their rows.

        Completions without words are masked out: the reward of an empty completion is set by rule, not learned.

        Args:
            prompts: P prompts, at least one.
            own: see the class.
            others: see the class.
            quality: gives text quality of completions from prompts and answers, (n,).
        """
        shape = (len(prompts), max(len(p.replies) for p in prompts))
        mask, corrupted, right = (np.zeros(shape, dtype=bool) for _ in range(3))
        values = np.ones(shape)
        for i, p in enumerate(prompts):
            count = len(p.replies)
            mask[i, :count] = [has_words(reply.answer) for reply in p.replies]
            corrupted[i, :count] = [reply.policy == CORRUPTED for reply in p.replies]
            right[i, :count] = [bool(is_right(p, reply)) for reply in p.replies]
            values[i, :count] = quality([p.prompt] * count, [reply.answer for reply in p.replies])
        known = torch.tensor(mask), torch.tensor(corrupted), torch.tensor(right)
        return cls(tuple(prompts), own, others, *known, torch.tensor(values, dtype=torch.float32))

    def part(self, rows: torch.Tensor) -> Pool:
        """Return some of the prompts, by index, (p,); an index may come twice."""
        own, others = (tuple(tensor[rows] for tensor in group) for group in (self.own, self.others))
        prompts = tuple(self.prompts[i] for i in rows.tolist())
        described = (tensor[rows] for tensor in (self.mask, self.corrupted, self.right, self.text_quality))
        return Pool(prompts, own, others, *described)

    def rows(self) -> tuple[tuple[np.ndarray, ...], list[str], list[str]]:
        """Return every demonstration, then every completion with words: what was read of them, prompts and answers."""
        where, which = self.mask.nonzero(as_tuple=True)  # one entry per completion
        pairs = zip(self.own, self.others, strict=True)
        inputs = tuple(torch.cat([own, others[where, which]]).numpy() for own, others in pairs)
        places = list(zip(where.tolist(), which.tolist(), strict=True))
        users = [*(p.prompt for p in self.prompts), *(self.prompts[i].prompt for i, _ in places)]
        answers = [*(p.answer for p in self.prompts), *(self.prompts[i].replies[k].answer for i, k in places)]
        return inputs, users, answers


def is_right(prompt: PoolPrompt, reply: Reply) -> bool | None:
    """Say whether a sampled completion is of the right kind: a refusal of an unsafe prompt, an answer to any other.

    Args:
        prompt: the prompt.
        reply: one of its completions.

    Returns:
        None for what is neither refusal nor answer by the rules judge (empty, echoed, degenerate), and for rows that no
        policy sampled: those are made to be wrong.
    """
    return is_right_kind(prompt.prompt, prompt.kind, reply.answer) if reply.policy in SAMPLED else None


def is_right_kind(prompt: str, kind: str, answer: str) -> bool | None:
    """Say whether an answer is a refusal of an unsafe prompt, or no refusal of any other, by the rules judge.

    Args:
        prompt: the user message.
        kind: `unsafe`, `look_alike` or `general`.
        answer: the answer without a draft.

    Returns:
        None for what is neither refusal nor answer: empty, echoed or degenerate.
    """
    label = label_reply(answer, prompt)
    return None if label in UNUSABLE else label == right_label(kind == UNSAFE)


def by_prompt(prompts: Sequence[PoolPrompt], rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay out rows by prompt.

    Args:
        prompts: P prompts.
        rows: one row per demonstration and completion, prompt by prompt, the demonstration first, (N, ...).

    Returns:
        Rows of the demonstrations, (P, ...), and of the completions, (P, K, ...); zero where there is none.
    """
    starts = np.cumsum([0, *(1 + len(p.replies) for p in prompts)])
    others = np.zeros((len(prompts), max(len(p.replies) for p in prompts), *rows.shape[1:]), dtype=rows.dtype)
    for i, p in enumerate(prompts):
        others[i, : len(p.replies)] = rows[starts[i] + 1 : starts[i + 1]]
    # Copied into torch's own memory: its alignment is fixed, and so is the order of sums: fits are the same to the bit.
    return torch.tensor(rows[starts[:-1]]), torch.tensor(others)
