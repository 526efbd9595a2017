"""Completions from a policy: seeded per row, batched by length, stored per row.

Each row draws its random numbers from a stream of its own, seeded by its content, so that a completion does not
depend on which other prompts share its batch, and changing ten prompts samples ten prompts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import TrainingError
from drirl_core.models.loading import Policy, load_policy, policy_key
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn.

    Args:
        max_new_tokens: length limit.
        temperature: 0 decodes greedily, 1 samples the policy itself.
        batch_size: rows decoded together.
        seed: seed of all rows.
    """

    max_new_tokens: int
    temperature: float
    batch_size: int
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One completion.

    Args:
        text: without special tokens.
        tokens: generated tokens, the end token included.
        finished: whether the policy ended it, rather than the length limit.
    """

    text: str
    tokens: int
    finished: bool


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
    """Draw completions of prompts; rows drawn before are read from the cache.

    Args:
        policy: model reference or checkpoint directory, or a policy that is loaded already.
        prompts: N user messages.
        copies: K completions a prompt (1 when greedy).
        settings: how to draw.
        models: how to load the policy.
        store: keeps the rows.
        reporter: gets progress and tokens per second.

    Returns:
        N lists of K completions, in the order of `prompts`.

    Raises:
        TrainingError: the policy returned logits that are not finite.
    """
    cache = RowCache(store.cache_path("completions"))
    weights = policy.key if isinstance(policy, Policy) else policy_key(policy, models)
    decides = [weights, settings.max_new_tokens, settings.temperature, settings.seed]
    keys = [[content_key(*decides, prompt, copy) for copy in range(copies)] for prompt in prompts]
    flat = {key: prompt for row, prompt in zip(keys, prompts, strict=True) for key in row}
    found = cache.get_many(flat)
    missing = [(key, prompt) for key, prompt in flat.items() if key not in found]
    if found and missing:
        reporter.log(f"{len(found)} of {len(flat)} completions are kept from earlier; sampling {len(missing)}")
    if missing:
        loaded = policy if isinstance(policy, Policy) else kept_policy(policy, models, weights)
        for part in _decode_all(loaded, missing, settings, reporter):
            fresh = {key: json.dumps([c.text, c.tokens, c.finished]).encode() for key, c in part.items()}
            cache.put_many(fresh)
            found.update(fresh)
    return [[Completion(*json.loads(found[key])) for key in row] for row in keys]


@functools.lru_cache(maxsize=2)
def kept_policy(policy: str | Path, models: ModelsConfig, _key: str) -> Policy:
    """Load a policy and keep the last two, for the categories of a stage take turns with the same ones.

    Args:
        policy: model reference or checkpoint directory.
        models: how to load it.
        _key: digest of its weights, so that other weights at the same place are loaded.
    """
    return load_policy(policy, models)


def _decode_all(
    policy: Policy, rows: list[tuple[str, str]], settings: SamplingSettings, reporter: Reporter
) -> Iterator[dict[str, Completion]]:
    texts = {prompt: chat_text(policy.tokenizer, prompt) for _, prompt in rows}
    ordered = sorted(rows, key=lambda row: len(texts[row[1]]))
    tokens, started = 0, time.monotonic()
    for start in range(0, len(ordered), settings.batch_size):
        part = ordered[start : start + settings.batch_size]
        completions = _decode(policy, [texts[prompt] for _, prompt in part], [key for key, _ in part], settings)
        tokens += sum(c.tokens for c in completions)
        yield {key: completion for (key, _), completion in zip(part, completions, strict=True)}
        reporter.progress("completions", start + len(part), len(ordered))
    reporter.log(
        f"sampled {len(ordered)} completions, {tokens} tokens, {tokens / (time.monotonic() - started):.0f} tokens/s"
    )


def chat_text(tokenizer: Any, prompt: str) -> str:
    """Render one user message with the model's chat template, ready for the reply."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )


def _decode(policy: Policy, texts: list[str], keys: list[str], settings: SamplingSettings) -> list[Completion]:
    import torch

    batch = policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(policy.device)
    width = batch["input_ids"].shape[1]
    processors = []
    if settings.temperature > 0:
        streams = [torch.Generator().manual_seed(int(key[:15], 16)) for key in keys]
        uniforms = torch.stack(
            [torch.rand(settings.max_new_tokens, generator=stream, dtype=torch.float64) for stream in streams]
        )
        processors.append(inverse_transform(settings.temperature, uniforms, width))
    with torch.inference_mode():
        # Greedy search picks the one token the processor leaves, so this is exact sampling (see inverse_transform).
        output = policy.model.generate(
            **batch, max_new_tokens=settings.max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
            logits_processor=processors, pad_token_id=policy.tokenizer.pad_token_id,
        )  # fmt: skip
    ends = _end_tokens(policy)
    return [_completion(row, policy.tokenizer, ends) for row in output[:, width:].tolist()]


def _end_tokens(policy: Policy) -> set[int]:
    ends = policy.model.generation_config.eos_token_id
    return {policy.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


def _completion(row: list[int], tokenizer: Any, ends: set[int]) -> Completion:
    stop = next((i for i, token in enumerate(row) if token in ends), None)
    kept = row if stop is None else row[:stop]
    return Completion(
        tokenizer.decode(kept, skip_special_tokens=True).strip(),
        len(row) if stop is None else stop + 1,
        stop is not None,
    )


def inverse_transform(temperature: float, uniforms: torch.Tensor, prompt_width: int) -> Any:
    """Make a logits processor that samples exactly by inverting the distribution function.

    One uniform number a token replaces one random number a vocabulary entry: with 49,152 entries the usual
    multinomial draw costs a quarter of a decoding step on a CPU. The processor leaves only the drawn token, which greedy
    search then takes.

    Args:
        temperature: divides the logits, above 0.
        uniforms: numbers in [0, 1), float64, (B, at least the number of new tokens).
        prompt_width: tokens before the first new one.

    Returns:
        A callable (input_ids (B, T), scores (B, V)) -> scores (B, V), 0 at the drawn token and -inf elsewhere.
    """
    import torch

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = torch.softmax(scores.float() / temperature, dim=-1)  # (B, V)
        reached = probabilities.cumsum(dim=-1, dtype=torch.float64)
        drawn = uniforms[:, input_ids.shape[1] - prompt_width].to(scores.device).unsqueeze(1) * reached[:, -1:]
        token = torch.searchsorted(reached, drawn, right=True).clamp(max=scores.shape[1] - 1)
        if not torch.isfinite(reached[:, -1]).all():
            raise TrainingError(
                "the policy's logits are not finite; its weights are damaged or training diverged (lower the learning rate)"
            )
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    return process


@contextlib.contextmanager
def exact_cpu_sampling(
    model: Any, temperature: float, generator: torch.Generator, max_new_tokens: int
) -> Iterator[None]:
    """Let `model.generate` sample by `inverse_transform` inside the block.

    Args:
        model: a transformers or PEFT model whose `generate` gets `input_ids` and a `generation_config`.
        temperature: divides the logits, above 0.
        generator: source of the uniform numbers; advances.
        max_new_tokens: uniform numbers drawn a row.
    """
    import torch

    original = model.generate

    @functools.wraps(original)
    def generate(*args: Any, generation_config: Any = None, **kwargs: Any) -> Any:
        rows, width = kwargs["input_ids"].shape
        uniforms = torch.rand(rows, max_new_tokens, generator=generator, dtype=torch.float64)
        plain = type(generation_config).from_dict(
            {**generation_config.to_dict(), "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        with _ready_to_decode(model):
            return original(
                *args,
                generation_config=plain,
                logits_processor=[inverse_transform(temperature, uniforms, width)],
                **kwargs,
            )

    model.generate = generate
    try:
        yield
    finally:
        del model.generate  # the class's method shows again


@contextlib.contextmanager
def _ready_to_decode(model: Any) -> Iterator[None]:
    """Use the attention that is fast without gradients, and fold adapters into the weights; put both back to the bit.

    Decoding reads every weight once a token: an adapter's two small products a layer would cost half as much again. The
    folded weights round as the published checkpoint does.
    """
    import peft
    import torch

    adapted = isinstance(model, peft.PeftModel)
    base = model.get_base_model() if adapted else model
    layers = [layer for layer in base.modules() if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().clone() for weight in weights]
    attention = base.config._attn_implementation
    if getattr(base, "_supports_sdpa", False):
        base.set_attn_implementation("sdpa")
    if adapted:
        model.merge_adapter()
    try:
        yield
    finally:
        base.set_attn_implementation(attention)
        if adapted:
            model.unmerge_adapter()
            with torch.no_grad():
                for weight, before in zip(weights, kept, strict=True):
                    weight.copy_(before)
