"""Hidden states of prompts in a frozen policy, kept per prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import TrainingError
from drirl_core.models.loading import Policy, policy_key, resolve
from drirl_core.models.sampling import chat_text, kept_policy
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import numpy as np
    import torch


def layer_at(reference: str | Path, models: ModelsConfig, depth: float) -> int:
    """Return the number of the layer at a share of a model's depth, without loading its weights.

    Args:
        reference: model reference or checkpoint directory.
        models: for the cache directory.
        depth: in (0, 1]; 1 is the last layer.

    Returns:
        Layers counted from 1; at least 1.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve(reference, models), trust_remote_code=False).get_text_config()
    return max(1, round(depth * config.num_hidden_layers))


def prompt_states(
    policy: str | Path,
    prompts: Sequence[str],
    layer: int,
    batch_size: int,
    *,
    models: ModelsConfig,
    store: ArtifactStore,
    reporter: Reporter,
) -> np.ndarray:
    """Return the hidden state of each prompt's last token, where the reply is about to begin.

    Args:
        policy: model reference or checkpoint directory.
        prompts: N user messages.
        layer: output of which layer, counted from 1.
        batch_size: prompts computed together.
        models: how to load the policy.
        store: keeps the rows.
        reporter: gets progress.

    Returns:
        float32, (N, H).

    Raises:
        TrainingError: a state is not finite.
    """
    import numpy as np

    cache, weights = RowCache(store.cache_path("prompt_states")), policy_key(policy, models)
    keys = [content_key(weights, layer, prompt) for prompt in prompts]
    wanted = dict(zip(keys, prompts, strict=True))
    found = cache.get_many(wanted)
    missing = [(key, prompt) for key, prompt in wanted.items() if key not in found]
    if missing:
        loaded = kept_policy(policy, models, weights)
        texts = {prompt: chat_text(loaded.tokenizer, prompt) for _, prompt in missing}
        missing.sort(key=lambda row: len(texts[row[1]]))  # a batch is then padded little
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            states = _states(loaded, [texts[prompt] for _, prompt in part], layer)
            fresh = {key: row.tobytes() for (key, _), row in zip(part, states, strict=True)}
            cache.put_many(fresh)
            found.update(fresh)
            reporter.progress("reading prompts", start + len(part), len(missing))
    return np.stack([np.frombuffer(found[key], dtype=np.float32) for key in keys])


def _states(policy: Policy, texts: list[str], layer: int) -> np.ndarray:
    import torch

    batch = policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(policy.device)
    given = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "position_ids": (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0),
    }
    with torch.inference_mode():
        read = _read_up_to(policy.model, layer, given)
    states = read[:, -1].float().cpu()  # padded on the left: the last token stands at the end
    if not torch.isfinite(states).all():
        raise TrainingError("hidden states of the policy are not finite; its weights are damaged")
    return states.numpy()


class _Enough(Exception):
    """Ends a forward pass: nothing above the layer is needed."""


def _read_up_to(model: Any, layer: int, given: dict[str, Any]) -> torch.Tensor:
    """Return the output of a layer, (B, T, H); layers above it are not computed if the model's list is known."""
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        return model(**given, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states[layer]
    found: list[torch.Tensor] = []

    def stop(_module: Any, _given: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Enough

    hook = layers[layer - 1].register_forward_hook(stop)
    try:
        with contextlib.suppress(_Enough):
            model(**given, use_cache=False)
    finally:
        hook.remove()
    return found[0]
