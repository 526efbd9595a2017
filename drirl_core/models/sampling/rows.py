"""Completions of prompts, stored per row: a row that was sampled before is read from the cache.

A row is kept under the prompt as the policy reads it, rendered by its chat template, so that nothing that a template
adds (a date, a switch for thinking) can mix with what was sampled without it.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drirl_core.config import ModelsConfig, VllmConfig
from drirl_core.models.context import require_room
from drirl_core.models.loading import Policy, kept_tokenizer, load_policy, policy_key
from drirl_core.models.sampling.decode import Completion, SamplingSettings, Watch, by_length, decode
from drirl_core.models.sampling.vllm_engine import ROWS, open_engine
from drirl_core.models.templates import begun_text
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
    vllm: VllmConfig | None = None,
    watch: Watch | None = None,
) -> list[list[Completion]]:
    """Sample completions of prompts; rows sampled before are read from the cache.

    A policy that is loaded already is sampled where it is.

    Args:
        policy: model reference or checkpoint directory, or a loaded policy.
        prompts: N user messages.
        copies: K completions per prompt (1 when greedy).
        settings: how to sample.
        models: how to load the policy.
        store: holds the cached rows.
        reporter: receives progress and tokens per second.
        vllm: the engine that samples; None for transformers.
        watch: gets what transformers' first pass on a CPU makes of the prompts that are sampled here.

    Returns:
        N lists of K completions, in the order of `prompts`.

    Raises:
        ConfigError: vLLM is to sample and is not installed.
        DataError: a prompt and its completion are longer than the policy can read.
        ModelError: the chat template cannot render a prompt, or vLLM cannot load the policy.
        TrainingError: the policy returned logits that are not finite.
    """
    if not prompts:
        return []
    cache = RowCache(store.cache_path("completions"))
    weights = policy.key if isinstance(policy, Policy) else policy_key(policy, models)
    tokenizer = policy.tokenizer if isinstance(policy, Policy) else kept_tokenizer(policy, models, weights)
    texts = {prompt: begun_text(tokenizer, prompt, settings.prefill) for prompt in prompts}
    key_parts = [weights, settings.max_new_tokens, settings.temperature, settings.seed]
    key_parts += [settings.prefill] if settings.prefill else []  # rows without one keep their keys of earlier versions
    engine = None if isinstance(policy, Policy) else vllm
    # Another draw from the same distribution; a greedy completion is the same but for rounding.
    key_parts += ["vllm"] if engine is not None and settings.temperature > 0 else []
    rows = {
        (prompt, copy): _Row(prompt, *_keys(key_parts, prompt, copy, text))
        for prompt, text in texts.items()
        for copy in range(copies)
    }
    flat = {row.key: row for row in rows.values()}
    found = cache.get_many(flat)
    missing = [row for key, row in flat.items() if key not in found]
    if found and missing:
        reporter.log(f"{len(found)} of {len(flat)} completions are reused; sampling {len(missing)}")
    if missing:
        if engine is not None and not isinstance(policy, Policy):
            opened = open_engine(policy, models, weights, engine, reporter)
            decoder, context, size = opened.decode, opened.context, ROWS
        else:
            loaded = policy if isinstance(policy, Policy) else open_policy(policy, models, weights, reporter)
            # On a GPU a pass over prompts costs little, and the memory of what is made of them is planned for one use.
            watched = watch if loaded.device.type == "cpu" else None
            decoder, context = functools.partial(decode, loaded, watch=watched), loaded.context
            size = settings.batch_size
        own = {row.prompt: texts[row.prompt] for row in missing}
        require_room(tokenizer, own, settings.max_new_tokens, context)
        for part in _decode_all(decoder, missing, texts, settings, size, reporter):
            fresh = {key: json.dumps([c.text, c.tokens, c.finished]).encode() for key, c in part.items()}
            cache.put_many(fresh)
            found.update(fresh)
    return [[Completion(*json.loads(found[rows[prompt, copy].key])) for copy in range(copies)] for prompt in prompts]


@functools.lru_cache(maxsize=2)
def kept_policy(policy: str | Path, models: ModelsConfig, _key: str) -> Policy:
    """Load a policy; the last two stay in memory, because all categories of a stage use the same ones."""
    return load_policy(policy, models)


def open_policy(policy: str | Path, models: ModelsConfig, key: str, reporter: Reporter | None) -> Policy:
    """Return a kept policy; what was set aside when it was loaded is logged once.

    Args:
        policy: model reference or checkpoint directory.
        models: how to load it.
        key: digest of its files, see `policy_key`.
        reporter: receives the lines.
    """
    before = kept_policy.cache_info().misses
    loaded = kept_policy(policy, models, key)
    if reporter is not None and kept_policy.cache_info().misses > before:
        for note in loaded.notes:
            reporter.log(note)
    return loaded


class _Row(NamedTuple):
    """A row to sample.

    Args:
        prompt: the user message.
        seed: its random numbers come from this; made of the plain prompt, so that it is that of earlier versions.
        key: under which it is stored; made of the rendered prompt as well.
    """

    prompt: str
    seed: str
    key: str


def _keys(parts: Sequence[object], prompt: str, copy: int, rendered: str) -> tuple[str, str]:
    return content_key(*parts, prompt, copy), content_key(*parts, prompt, copy, rendered)


def _decode_all(
    decoder: Callable[[Sequence[str], Sequence[str], SamplingSettings], list[Completion]],
    rows: Sequence[_Row],
    texts: Mapping[str, str],
    settings: SamplingSettings,
    size: int,
    reporter: Reporter,
) -> Iterator[dict[str, Completion]]:
    tokens, done, started = 0, 0, time.monotonic()
    for part in by_length(rows, lambda row: texts[row.prompt], size):
        completions = decoder([texts[row.prompt] for row in part], [row.seed for row in part], settings)
        tokens += sum(c.tokens for c in completions)
        yield {row.key: completion for row, completion in zip(part, completions, strict=True)}
        done += len(part)
        reporter.progress("completions", done, len(rows))
    reporter.log(
        f"sampled {len(rows)} completions, {tokens} tokens, {tokens / (time.monotonic() - started):.0f} tokens/s"
    )
