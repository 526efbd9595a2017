"""Hidden states of the frozen policy, kept per row: what a middle layer makes of a prompt and of a completion.

Layer L is the output of the L-th decoder layer, `hidden_states[L]` in transformers' count, in which 0 is the input
embedding. The forward pass stops there: the layers above it and the output layer are never computed. Prompt and
completion are tokenised apart, as generation does. A prompt is computed once for all completions beside it, and what
all prompts of a batch begin with once for all prompts.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError, ModelError, TrainingError
from drirl_core.models.context import context_length, shown
from drirl_core.models.digests import former_digest, model_digest
from drirl_core.models.loading import Policy, kept_tokenizer, policy_key
from drirl_core.models.partial_pass import until_layer
from drirl_core.models.references import resolve
from drirl_core.models.sampling import open_policy
from drirl_core.models.templates import answer_text
from drirl_core.models.token_rows import TokenRow, token_rows, tokens_of
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import numpy as np
    import torch

    from drirl_core.models.adapted import AdaptedPolicy

LAST_PROMPT, COMPLETION_MEAN = 0, 1
"""Places of the two vectors of a row."""
_BATCH_TOKENS = 4096
"""Padded tokens per forward pass."""


class HiddenStates:
    """Summarise prompts with completions by the frozen policy; the model loads on the first row that is not cached.

    Args:
        models: names the policy; its own weights are read, never trained adapters.
        store: keeps the rows.
        policy: the policy, where it is loaded already.
        keep: whether rows go to the store. Rollouts, which never come twice, are better not kept: rows that are in the
            store, such as demonstrations, are read, and the rows of the latest call alone stay in memory.
    """

    def __init__(
        self, models: ModelsConfig, store: ArtifactStore, *, policy: Policy | None = None, keep: bool = True
    ) -> None:
        self._models = models
        place = store.cache_path("hidden_states")
        self._cache, self._keep = RowCache(place) if keep or place.is_file() else None, keep
        self._memory: dict[str, np.ndarray] = {}
        self._loaded = policy

    @property
    def reference(self) -> str:
        """Model reference of the policy."""
        return self._models.policy

    @functools.cached_property
    def digest(self) -> str:
        """What identifies the content of the policy: weights, tokenizer and chat template."""
        return model_digest(resolve(self._models.policy, self._models), Path(self._models.cache))

    @functools.cached_property
    def former_digests(self) -> tuple[str, ...]:
        """What earlier versions of this package identified the same content by."""
        return (former_digest(resolve(self._models.policy, self._models), Path(self._models.cache)),)

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return int(self._config.num_hidden_layers)

    @property
    def dim(self) -> int:
        """Width H of a hidden state."""
        return int(self._config.hidden_size)

    def layer_of(self, setting: float) -> int:
        """Return the number of a layer.

        Args:
            setting: a share of the depth, below 1, or the number of a layer, from 1.

        Raises:
            ModelError: the policy has no such layer.
        """
        layer = max(1, round(setting * self.depth)) if setting < 1 else int(setting)
        if layer > self.depth:
            raise ModelError(
                f"rewards.layer is {layer}, but {self.reference} has {self.depth} layers; "
                "choose one of them, or a share of the depth such as 0.6"
            )
        return layer

    def encode(
        self, prompts: Sequence[str], completions: Sequence[str], layer: int, reporter: Reporter | None = None
    ) -> np.ndarray:
        """Summarise rows.

        A row is kept under the policy's digest and type, the layer, the prompt as the policy reads it, and the
        completion. A thought that the chat template opens is closed before the completion, which is an answer.

        Args:
            prompts: B user messages.
            completions: B completions without drafts; equal rows are computed once. Of one that does not fit into the
                policy's context, the beginning is read.
            layer: number of the layer, from 1 to `depth`.
            reporter: gets progress while rows are computed.

        Returns:
            float32, (B, 2, H): the state of the last prompt token (the one before the completion), and the mean of the
            states of the completion's tokens, its end token not among them; 0 for an empty completion.

        Raises:
            DataError: a prompt alone is longer than the policy can read.
            ModelError: the policy cannot be loaded, or its layers cannot be found.
            TrainingError: a state is not finite.
        """
        import numpy as np

        rendered = {prompt: answer_text(self._tokenizer, prompt) for prompt in prompts}
        pairs = list(zip(prompts, completions, strict=True))
        keys = [content_key(self._key, layer, rendered[prompt], completion) for prompt, completion in pairs]
        if not self._keep:
            self._memory = {key: self._memory[key] for key in keys if key in self._memory}
        if self._cache is not None:
            unknown = [key for key in dict.fromkeys(keys) if key not in self._memory]
            found = self._cache.get_many(unknown)
            self._memory.update({k: np.frombuffer(v, dtype=np.float32).reshape(2, -1) for k, v in found.items()})
        missing = {
            key: (rendered[prompt], completion)
            for key, (prompt, completion) in zip(keys, pairs, strict=True)
            if key not in self._memory
        }
        if missing:
            self._compute(missing, layer, reporter)
        if not keys:
            return np.zeros((0, 2, self.dim), dtype=np.float32)
        return np.stack([self._memory[key] for key in keys])

    def of_prompts(self, prompts: Sequence[str], layer: int, reporter: Reporter | None = None) -> np.ndarray:
        """Return the state of each prompt's last token, where the completion is about to begin, float32, (N, H).

        Args:
            prompts: N user messages.
            layer: number of the layer, from 1 to `depth`.
            reporter: gets progress while rows are computed.

        Raises:
            ModelError: the policy cannot be loaded, or its layers cannot be found.
            TrainingError: a state is not finite.
        """
        return self.encode(prompts, [""] * len(prompts), layer, reporter)[:, LAST_PROMPT]

    def policy(self, reporter: Reporter | None = None) -> Policy:
        """Return the policy itself, which loads here if it is not loaded yet.

        Args:
            reporter: gets what was set aside when it was loaded.

        Raises:
            ModelError: the policy cannot be loaded.
        """
        if self._loaded is None:
            self._loaded = open_policy(self._models.policy, self._models, self._key, reporter)
        return self._loaded

    @functools.cached_property
    def adapted(self) -> AdaptedPolicy:
        """The policy under adapters; its weights are shared, and what is read by this class stays without adapters."""
        from drirl_core.models.adapted import AdaptedPolicy

        return AdaptedPolicy(self.policy())

    def tokens(self, prompts: Sequence[str], completions: Sequence[str]) -> list[TokenRow]:
        """Return rows as the policy reads them; of a completion that does not fit, the beginning.

        Args:
            prompts: B user messages.
            completions: B completions without drafts.

        Raises:
            DataError: a prompt alone is longer than the policy can read.
            ModelError: the tokenizer cannot be loaded.
        """
        rendered = {prompt: answer_text(self._tokenizer, prompt) for prompt in prompts}
        texts = [(rendered[prompt], completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return token_rows(self._tokenizer, texts, context_length(self._config))

    def require_room(self, prompt: str, completion: str) -> None:
        """Refuse a row that the policy can read only in part.

        Args:
            prompt: the user message.
            completion: the completion without a draft.

        Raises:
            DataError: they have more tokens than the policy can read.
            ModelError: the tokenizer cannot be loaded.
        """
        limit, tokenizer = context_length(self._config), self._tokenizer
        tokens = [len(tokens_of(tokenizer, text)) for text in (answer_text(tokenizer, prompt), completion)]
        if limit is not None and sum(tokens) > limit:
            raise DataError(
                f"the prompt {shown(prompt)} and its reply have {tokens[0]} and {tokens[1]} tokens as {self.reference} "
                f"reads them, more than the {limit} that it can read; shorten one of them"
            )

    @functools.cached_property
    def _key(self) -> str:
        return self._loaded.key if self._loaded else policy_key(self._models.policy, self._models)

    @property
    def _tokenizer(self) -> Any:
        if self._loaded:
            return self._loaded.tokenizer
        return kept_tokenizer(self._models.policy, self._models, self._key)

    @functools.cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        folder = resolve(self._models.policy, self._models)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()

    def _compute(self, missing: dict[str, tuple[str, str]], layer: int, reporter: Reporter | None) -> None:
        import numpy as np

        policy, done = self.policy(reporter), 0
        for part in _batches(policy.tokenizer, missing, context_length(self._config)):
            states = read_layer(policy, [row.prompt for row in part], [row.completion for row in part], layer)
            values = states.cpu().numpy()
            if not np.isfinite(values).all():
                raise TrainingError(
                    f"the policy {self.reference} returned hidden states that are not finite; "
                    "check its files with `drirl doctor`"
                )
            fresh = {row.key: values[i] for i, row in enumerate(part)}
            self._memory.update(fresh)
            if self._cache is not None and self._keep:
                self._cache.put_many({key: value.tobytes() for key, value in fresh.items()})
            done += len(part)
            if reporter and len(part) < len(missing):
                reporter.progress("hidden states", done, len(missing))


class _Row(NamedTuple):
    """A row to compute: its key and the tokens of its prompt and completion."""

    key: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def _batches(tokenizer: Any, rows: dict[str, tuple[str, str]], limit: int | None) -> Iterator[list[_Row]]:
    """Tokenise rows and yield them by length, so that a batch is padded little and equal prompts lie together.

    Args:
        tokenizer: of the policy.
        rows: rendered prompt and completion by key.
        limit: tokens that the policy can read; None for no limit.
    """
    read = token_rows(tokenizer, list(rows.values()), limit)
    made = [_Row(key, *row) for key, row in zip(rows, read, strict=True)]
    part: list[_Row] = []
    for row in sorted(made, key=lambda row: (len(row.prompt), row.prompt, len(row.completion))):
        longest = max(len(r.completion) for r in (*part, row))
        size = len({r.prompt for r in (*part, row)}) * len(row.prompt) + (len(part) + 1) * longest
        if part and size > _BATCH_TOKENS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def read_layer(
    policy: Policy, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], layer: int
) -> torch.Tensor:
    """Summarise token rows by one layer; equal prompts are computed once.

    Args:
        policy: the frozen policy.
        prompts: tokens of B rendered prompts, none of them empty.
        completions: tokens of B completions.
        layer: number of the layer, from 1.

    Returns:
        float32, (B, 2, H), as `HiddenStates.encode`.
    """
    import torch
    from transformers import DynamicCache

    places = {tokens: i for i, tokens in enumerate(dict.fromkeys(map(tuple, prompts)))}
    of_row = torch.tensor([places[tuple(tokens)] for tokens in prompts], device=policy.device)
    cache = DynamicCache()
    with torch.inference_mode():
        # What all prompts begin with, the system message of the template, is computed for one of them.
        start = _common_length(list(places))
        if start > 0:
            common = torch.tensor([next(iter(places))[:start]], device=policy.device)
            until_layer(policy.model, layer, input_ids=common, past_key_values=cache)
            cache.batch_select_indices(torch.zeros(len(places), dtype=torch.long, device=policy.device))
        ids, own = _padded([tokens[start:] for tokens in places], policy)
        present = torch.cat([own.new_ones(len(places), start), own], dim=1)
        hidden = until_layer(policy.model, layer, input_ids=ids, attention_mask=present, past_key_values=cache)
        lengths = present.sum(dim=1)
        ends = lengths - start - 1
        last = hidden[torch.arange(len(places), device=policy.device), ends].float()[of_row]  # (B, H)
        ids, own = _padded(completions, policy)
        if not ids.shape[1]:
            return torch.stack([last, torch.zeros_like(last)], dim=1)
        cache.batch_select_indices(of_row)
        hidden = until_layer(
            policy.model,
            layer,
            input_ids=ids,
            attention_mask=torch.cat([present[of_row], own], dim=1),
            position_ids=lengths[of_row].unsqueeze(1) + torch.arange(ids.shape[1], device=policy.device),
            past_key_values=cache,
        )
        return torch.stack([last, masked_mean(hidden, own.bool())], dim=1)


def _common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Count the tokens with which all prompts begin, without the last token of the shortest; 0 for a single prompt."""
    if len(prompts) < 2:
        return 0
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)


def summarise(hidden: torch.Tensor, completion_mask: torch.Tensor) -> torch.Tensor:
    """Summarise hidden states that somebody else computed, such as the reference's in GRPO.

    Args:
        hidden: states of one layer over prompt and completion, (B, T, H).
        completion_mask: true at the completion's own tokens, its end token left out, bool, (B, T). The token before
            the first of them is the last one of the prompt.

    Returns:
        float32, (B, 2, H), as `HiddenStates.encode`; a row without completion tokens has 0 in both places.

    Raises:
        ValueError: shapes do not fit, or a completion starts at the first position, so that its prompt is not there.
    """
    import torch

    mask = completion_mask.bool()
    if hidden.ndim != 3 or mask.shape != hidden.shape[:2] or not mask.shape[1]:
        raise ValueError(
            f"hidden states {tuple(hidden.shape)} with a mask {tuple(mask.shape)}; give (B, T, H) and (B, T)"
        )
    if mask[:, 0].any():
        raise ValueError("a completion starts at the first position; give the hidden states of the prompt as well")
    filled = mask.any(dim=1)
    before = (mask.int().argmax(dim=1) - 1).clamp(min=0)
    last = hidden[torch.arange(len(hidden), device=hidden.device), before].float() * filled.unsqueeze(1)
    return torch.stack([last, masked_mean(hidden, mask)], dim=1)


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the marked positions in float32, (B, H); 0 where none is marked.

    Args:
        hidden: (B, T, H).
        mask: bool, (B, T).
    """
    total = hidden.float().masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _padded(rows: Sequence[Sequence[int]], policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token rows on the right; return tokens and the mask of the real ones, int64, (B, T)."""
    import torch

    width = max(map(len, rows), default=0)
    ids = torch.full((len(rows), width), policy.tokenizer.pad_token_id, dtype=torch.long)
    present = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        present[i, : len(row)] = 1
    return ids.to(policy.device), present.to(policy.device)
