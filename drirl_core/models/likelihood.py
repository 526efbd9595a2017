"""Log-probabilities of fixed continuations of prompts, kept per prompt: cheap, because nothing is generated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.models.context import require_room
from drirl_core.models.loading import Policy, kept_tokenizer, policy_key
from drirl_core.models.sampling import open_policy
from drirl_core.models.sampling.decode import Watch, by_length
from drirl_core.models.sharding import without_gradients
from drirl_core.models.shared_prompts import rows_of_cache, start_once
from drirl_core.models.templates import answer_text
from drirl_core.reporting import Reporter, SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import numpy as np
    import torch


def continuation_log_probs(
    policy: str | Path | Policy,
    prompts: Sequence[str],
    continuations: Sequence[str],
    batch_size: int,
    *,
    models: ModelsConfig,
    store: ArtifactStore,
    reporter: Reporter,
) -> np.ndarray:
    """Return the log-probability that the reply to each prompt opens with each continuation.

    A prompt is computed once; its keys and values are repeated for the continuations. Rows are kept under the prompt as
    the policy reads it; a thought that the chat template opens is closed, because a continuation opens an answer.

    Args:
        policy: model reference or checkpoint directory, or a policy that is loaded already.
        prompts: N user messages.
        continuations: C texts of at least one token each.
        batch_size: different beginnings of continuations that are computed together; a batch holds all of at least one
            prompt.
        models: how to load the policy.
        store: keeps the rows.
        reporter: gets progress.

    Returns:
        Sums of token log-probabilities in nats, at most 0, float64, (N, C).

    Raises:
        DataError: a continuation has no token, or a prompt is longer than the policy can read.
        TrainingError: the policy returned logits that are not finite.
    """
    import numpy as np

    cache = RowCache(store.cache_path("continuations"))
    weights = policy.key if isinstance(policy, Policy) else policy_key(policy, models)
    tokenizer = policy.tokenizer if isinstance(policy, Policy) else kept_tokenizer(policy, models, weights)
    texts = [answer_text(tokenizer, prompt) for prompt in prompts]
    keys = [_key(weights, continuations, text) for text in texts]
    wanted = dict(zip(keys, zip(prompts, texts, strict=True), strict=True))
    found = cache.get_many(wanted)
    missing = [(key, text) for key, (_, text) in wanted.items() if key not in found]
    if missing:
        loaded = policy if isinstance(policy, Policy) else open_policy(policy, models, weights, reporter)
        longest = max(len(text.encode()) for text in continuations)
        own = {prompt: text for key, (prompt, text) in wanted.items() if key not in found}
        require_room(loaded.tokenizer, own, longest, loaded.context, "")
        for part in _all_rows(loaded, missing, continuations, batch_size, reporter):
            fresh = {key: json.dumps(row).encode() for key, row in part.items()}
            cache.put_many(fresh)
            found.update(fresh)
    return np.array([json.loads(found[key]) for key in keys], dtype=np.float64).reshape(-1, len(continuations))


def keeper(prompts: Sequence[str], continuations: Sequence[str], batch_size: int, store: ArtifactStore) -> Watch:
    """Return what keeps rows of `continuation_log_probs` while replies to the same prompts are sampled.

    Rows that are stored already are not recomputed. Where the chat template opens a thought, replies begin in it and
    continuations behind it, so that nothing is computed.

    Args:
        prompts: user messages whose rows are wanted.
        continuations: C texts of at least one token each.
        batch_size: different beginnings of continuations that are computed together.
        store: keeps the rows.
    """
    kept = RowCache(store.cache_path("continuations"))
    wanted: set[str] = set()

    def keep(policy: Policy, texts: Sequence[str], mask: torch.Tensor, read: Any) -> None:
        if not wanted:
            wanted.update(answer_text(policy.tokenizer, prompt) for prompt in prompts)
        tokens, keys = _tokens(policy, continuations), [_key(policy.key, continuations, text) for text in texts]
        known = kept.get_many(keys)
        places = [place for place, text in enumerate(texts) if text in wanted and keys[place] not in known]
        size = _prompts_per_batch(tokens, batch_size)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            rows = mask.new_tensor(part)
            cache = rows_of_cache(read.past_key_values, rows)
            values = _totals(policy.model, read.logits[rows, -1], cache, mask[rows], tokens)
            kept.put_many({keys[place]: json.dumps(row).encode() for place, row in zip(part, values, strict=True)})

    return keep


def _key(weights: str, continuations: Sequence[str], text: str) -> str:
    return content_key(weights, list(continuations), text, "rendered")


def log_probs_now(policy: Policy, prompts: Sequence[str], continuations: Sequence[str], batch_size: int) -> np.ndarray:
    """Return what `continuation_log_probs` does for weights that training still changes, so that nothing is kept.

    Args:
        policy: the loaded policy.
        prompts: N user messages.
        continuations: C texts of at least one token each.
        batch_size: different beginnings of continuations that are computed together.

    Returns:
        Sums of token log-probabilities in nats, at most 0, float64, (N, C).

    Raises:
        DataError: a continuation has no token.
        TrainingError: the policy returned logits that are not finite.
    """
    import numpy as np

    rows = [(str(number), answer_text(policy.tokenizer, prompt)) for number, prompt in enumerate(prompts)]
    found: dict[str, list[float]] = {}
    for part in _all_rows(policy, rows, continuations, batch_size, SilentReporter()):
        found.update(part)
    return np.array([found[key] for key, _ in rows], dtype=np.float64).reshape(-1, len(continuations))


def _all_rows(
    policy: Policy, rows: list[tuple[str, str]], continuations: Sequence[str], batch_size: int, reporter: Reporter
) -> Iterator[dict[str, list[float]]]:
    tokens = _tokens(policy, continuations)
    done = 0
    for part in by_length(rows, lambda row: row[1], _prompts_per_batch(tokens, batch_size)):
        values = _batch(policy, [text for _, text in part], tokens)
        yield {key: row for (key, _), row in zip(part, values, strict=True)}
        done += len(part)
        reporter.progress("scoring prompts", done, len(rows))


def _tokens(policy: Policy, continuations: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each continuation, at least one."""
    tokens = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
    empty = [text for text, ids in zip(continuations, tokens, strict=True) if not ids]
    if empty:
        raise DataError(f"the continuation {empty[0]!r} has no token; give a text")
    return tokens


def _prompts_per_batch(tokens: list[list[int]], batch_size: int) -> int:
    return max(1, batch_size // max(1, len(_paths(tokens))))


def _batch(policy: Policy, texts: list[str], tokens: list[list[int]]) -> list[list[float]]:
    """Return the log-probabilities of all C continuations after each of B texts."""
    batch = policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(policy.device)
    mask = batch["attention_mask"]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with without_gradients(policy.model), start_once(policy.model):
        read = policy.model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        return _totals(policy.model, read.logits[:, -1], read.past_key_values, mask, tokens)


def _totals(
    model: Any, logits: torch.Tensor, cache: Any, mask: torch.Tensor, tokens: list[list[int]]
) -> list[list[float]]:
    """Return the log-probabilities of all C continuations of B prompts that have been read; uses up the cache.

    Args:
        model: the policy's.
        logits: of the prompts' last tokens, (B, V).
        cache: keys and values of the prompts.
        mask: of the prompts, (B, T).
        tokens: of each continuation.
    """
    import torch

    first = torch.log_softmax(logits.float(), dim=-1)  # (B, V)
    total = first[:, [ids[0] for ids in tokens]].double()  # (B, C)
    if any(len(ids) > 1 for ids in tokens):
        total += _later_tokens(model, cache, mask, tokens)
    if not torch.isfinite(total).all():
        raise TrainingError(
            "the policy's logits are not finite; its weights are damaged or training diverged (lower the learning rate)"
        )
    # Rounded, because the last bits depend on which rows share the batch.
    return [[round(value, 5) for value in row] for row in total.tolist()]


def _later_tokens(model: Any, cache: Any, mask: torch.Tensor, tokens: list[list[int]]) -> torch.Tensor:
    """Return the log-probability of the second to last token of each continuation, (B, C); uses up the cache."""
    import torch

    paths = _paths(tokens)
    rows, width = len(mask), max(map(len, paths))
    # Padding on the right: later positions change nothing before them, and nothing is read from them.
    inputs = torch.tensor([[*path, *[path[0]] * (width - len(path))] for path in paths], device=mask.device)
    cache.batch_repeat_interleave(len(paths))
    seen = mask.repeat_interleave(len(paths), dim=0)  # (B S, T)
    logits = model(
        input_ids=inputs.repeat(rows, 1),
        attention_mask=torch.cat([seen, seen.new_ones(len(seen), width)], dim=1),
        position_ids=seen.sum(dim=1, keepdim=True) + torch.arange(width, device=mask.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    chances = torch.log_softmax(logits.float(), dim=-1).view(rows, len(paths), width, -1)  # (B, S, W, V)
    total = torch.zeros(rows, len(tokens), dtype=torch.float64, device=mask.device)
    for number, ids in enumerate(tokens):
        path = next(i for i, path in enumerate(paths) if path[: len(ids) - 1] == tuple(ids[:-1]))
        for step, token in enumerate(ids[1:]):
            total[:, number] += chances[:, path, step, token]
    return total


def _paths(tokens: list[list[int]]) -> list[tuple[int, ...]]:
    """Return the beginnings that must be read: of each continuation all but its last token, none inside another."""
    heads = sorted({tuple(ids[:-1]) for ids in tokens if len(ids) > 1})
    if not heads:
        return []
    # In this order a beginning that is a prefix of others stands right before the first of them.
    return [head for head, after in zip(heads, [*heads[1:], ()], strict=True) if after[: len(head)] != head]
