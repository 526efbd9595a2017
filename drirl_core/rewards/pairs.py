"""The pairs that rewards are learned and measured on: each prompt's demonstration and its whole completion pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from drirl_core.errors import DataError
from drirl_core.rewards.vectors import encode
from drirl_core.text.quality import TextQuality, has_words

if TYPE_CHECKING:
    from drirl_core.models.embeddings import Embedder
    from drirl_core.reporting import Reporter

CORRUPTED = "corrupted"
"""Policy name of broken demonstrations in a pool."""


@dataclass(frozen=True)
class Reply:
    """One completion of a pool.

    Args:
        policy: who wrote it: `base`, `sft`, `compliance`, `refusal`, `off_topic` or `corrupted`.
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
    """

    prompt_id: str
    prompt: str
    split: str
    demonstration: str
    answer: str
    replies: tuple[Reply, ...]


def join_pool(
    rows: Sequence[Mapping[str, Any]], completions: Sequence[Mapping[str, Any]], name: str
) -> list[PoolPrompt]:
    """Join a data set with its completion pool.

    Args:
        rows: rows of `rows.parquet`; resampled copies are left out, a copy would only count a prompt twice.
        completions: rows of `completions.parquet`.
        name: of the category, for messages.

    Returns:
        One entry a prompt, sorted by prompt_id; replies sorted by policy and sample.

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
            f"{name}: data set and completion pool do not belong together: {len(lonely)} prompts without completions (such as "
            f"{lonely[:1]}), {len(strangers)} completed prompts that are not in the data set (such as {strangers[:1]}); "
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


@dataclass(frozen=True)
class EmbeddedPool:
    """A pool as tensors; P prompts, at most K completions each, embeddings of width D.

    Args:
        prompts: the P prompts.
        prompt_vectors: u, (P, D).
        demonstration_vectors: v of the demonstrations' answers and their clauses, (P, 1 + S, D).
        reply_vectors: v of the completions and their clauses, (P, K, 1 + S, D); zero where there is none.
        mask: true where there is a completion with words, bool, (P, K).
        corrupted: true where it is a broken demonstration, bool, (P, K).
        text_quality: of the completions, float, (P, K).
    """

    prompts: tuple[PoolPrompt, ...]
    prompt_vectors: torch.Tensor
    demonstration_vectors: torch.Tensor
    reply_vectors: torch.Tensor
    mask: torch.Tensor
    corrupted: torch.Tensor
    text_quality: torch.Tensor

    def part(self, rows: torch.Tensor) -> EmbeddedPool:
        """Return some of the prompts, by index, (p,)."""
        return EmbeddedPool(
            tuple(self.prompts[i] for i in rows.tolist()), self.prompt_vectors[rows], self.demonstration_vectors[rows],
            self.reply_vectors[rows], self.mask[rows], self.corrupted[rows], self.text_quality[rows],
        )  # fmt: skip


def embed_pool(
    prompts: Sequence[PoolPrompt], embedder: Embedder, text_quality: TextQuality, reporter: Reporter | None = None
) -> EmbeddedPool:
    """Encode a pool once.

    Completions without words are masked out: the reward of an empty reply is set by rule, not learned.

    Args:
        prompts: P prompts, at least one.
        embedder: sentence encoder.
        text_quality: measure of ordinary prose.
        reporter: gets progress.
    """
    answers = [text for p in prompts for text in (p.answer, *(reply.answer for reply in p.replies))]
    users, vectors = encode(embedder, [p.prompt for p in prompts], answers, reporter)
    shape = (len(prompts), max(len(p.replies) for p in prompts))
    replies = np.zeros((*shape, *vectors.shape[1:]), dtype=np.float32)
    mask, corrupted, quality = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool), np.ones(shape)
    starts = np.cumsum([0, *(1 + len(p.replies) for p in prompts)])
    for i, p in enumerate(prompts):
        count = len(p.replies)
        replies[i, :count] = vectors[starts[i] + 1 : starts[i + 1]]
        mask[i, :count] = [has_words(reply.answer) for reply in p.replies]
        corrupted[i, :count] = [reply.policy == CORRUPTED for reply in p.replies]
        quality[i, :count] = text_quality.score([p.prompt] * count, [reply.answer for reply in p.replies])
    # Copied into torch's own memory: its alignment is fixed, and with it the order of sums, so that fits repeat to the bit.
    return EmbeddedPool(
        tuple(prompts), torch.tensor(users), torch.tensor(vectors[starts[:-1]]), torch.tensor(replies),
        torch.tensor(mask), torch.tensor(corrupted), torch.tensor(quality, dtype=torch.float32),
    )  # fmt: skip
