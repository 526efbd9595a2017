"""Completions of prompts, stored per row: a row that was sampled before is read from the cache."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from drirl_core.config import ModelsConfig
from drirl_core.models.loading import Policy, load_policy, policy_key
from drirl_core.models.sampling.decode import Completion, SamplingSettings, chat_text, decode
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key


def sample(
    policy: str | Path | Policy,
    prompts: Sequence[str],
    copies: int,
    settings: SamplingSettings,
    *,
    models: ModelsConfig,
    store: ArtifactStore,
    reporter: Reporter,
) -> list[list[Completion]]:
    """Sample completions of prompts; rows sampled before are read from the cache.

    Args:
        policy: model reference or checkpoint directory, or a loaded policy.
        prompts: N user messages.
        copies: K completions per prompt (1 when greedy).
        settings: how to sample.
        models: how to load the policy.
        store: holds the cached rows.
        reporter: receives progress and tokens per second.

    Returns:
        N lists of K completions, in the order of `prompts`.

    Raises:
        TrainingError: the policy returned logits that are not finite.
    """
    cache = RowCache(store.cache_path("completions"))
    weights = policy.key if isinstance(policy, Policy) else policy_key(policy, models)
    key_parts = [weights, settings.max_new_tokens, settings.temperature, settings.seed]
    keys = [[content_key(*key_parts, prompt, copy) for copy in range(copies)] for prompt in prompts]
    flat = {key: prompt for row, prompt in zip(keys, prompts, strict=True) for key in row}
    found = cache.get_many(flat)
    missing = [(key, prompt) for key, prompt in flat.items() if key not in found]
    if found and missing:
        reporter.log(f"{len(found)} of {len(flat)} completions are reused; sampling {len(missing)}")
    if missing:
        loaded = policy if isinstance(policy, Policy) else kept_policy(policy, models, weights)
        for part in _decode_all(loaded, missing, settings, reporter):
            fresh = {key: json.dumps([c.text, c.tokens, c.finished]).encode() for key, c in part.items()}
            cache.put_many(fresh)
            found.update(fresh)
    return [[Completion(*json.loads(found[key])) for key in row] for row in keys]


@functools.lru_cache(maxsize=2)
def kept_policy(policy: str | Path, models: ModelsConfig, _key: str) -> Policy:
    """Load a policy; the last two stay in memory, because all categories of a stage use the same ones."""
    return load_policy(policy, models)


def _decode_all(
    policy: Policy, rows: list[tuple[str, str]], settings: SamplingSettings, reporter: Reporter
) -> Iterator[dict[str, Completion]]:
    texts = {prompt: chat_text(policy.tokenizer, prompt) for _, prompt in rows}
    ordered = sorted(rows, key=lambda row: len(texts[row[1]]))
    tokens, started = 0, time.monotonic()
    for start in range(0, len(ordered), settings.batch_size):
        part = ordered[start : start + settings.batch_size]
        completions = decode(policy, [texts[prompt] for _, prompt in part], [key for key, _ in part], settings)
        tokens += sum(c.tokens for c in completions)
        yield {key: completion for (key, _), completion in zip(part, completions, strict=True)}
        reporter.progress("completions", start + len(part), len(ordered))
    reporter.log(
        f"sampled {len(ordered)} completions, {tokens} tokens, {tokens / (time.monotonic() - started):.0f} tokens/s"
    )
