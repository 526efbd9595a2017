"""Hidden states of the frozen policy, kept per row: what a middle layer makes of a prompt and of a completion.

The forward pass stops at layer L: the layers above it and the output layer are never computed. Prompt and completion
are tokenised separately, as in generation. A prompt is computed once for all its completions, and the tokens with which
all prompts of a batch begin once for all prompts. Rows that other code has computed can be offered.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError, ModelError, TrainingError
from drirl_core.models.context import context_length, shown
from drirl_core.models.digests import former_digest, model_digest
from drirl_core.models.layer_states import read_layer
from drirl_core.models.loading import Policy, kept_tokenizer, policy_key
from drirl_core.models.references import resolve
from drirl_core.models.sampling import open_policy
from drirl_core.models.templates import answer_text
from drirl_core.models.token_rows import TokenRow, token_rows, tokens_of
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import numpy as np

    from drirl_core.models.adapted import AdaptedPolicy

LAST_PROMPT, COMPLETION_MEAN = 0, 1
"""Places of the two vectors of a row."""
_BATCH_TOKENS = 4096
"""Tokens per batch, its prompts padded, and its completions as one pass would pad them."""


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
        self._offered: Mapping[TokenRow, np.ndarray] = {}
        self._offered_layer = 0
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

        keys, missing = self._look_up(prompts, completions, layer)
        if missing:
            self._compute(missing, layer, reporter)
        if not keys:
            return np.zeros((0, 2, self.dim), dtype=np.float32)
        return np.stack([self._memory[key] for key in keys])

    def offer(self, layer: int, rows: Mapping[TokenRow, np.ndarray]) -> None:
        """Take rows that somebody else computed, such as the reference of GRPO, in place of those offered earlier.

        A row whose own tokens are offered is not computed here; every other row is.

        Args:
            layer: number of the layer, from 1.
            rows: the two vectors of each row as `encode` returns them, float32, (2, H), by its tokens.
        """
        self._offered, self._offered_layer = rows, layer

    def lacking(self, prompts: Sequence[str], completions: Sequence[str], layer: int) -> list[TokenRow]:
        """Return the tokens of the rows that `encode` would have to compute, each once.

        Args:
            prompts: B user messages.
            completions: B completions without drafts.
            layer: number of the layer, from 1 to `depth`.

        Raises:
            DataError: a prompt alone is longer than the policy can read.
            ModelError: the tokenizer cannot be loaded.
        """
        _, missing = self._look_up(prompts, completions, layer)
        return token_rows(self._tokenizer, list(missing.values()), context_length(self._config))

    def _look_up(
        self, prompts: Sequence[str], completions: Sequence[str], layer: int
    ) -> tuple[list[str], dict[str, tuple[str, str]]]:
        """Return the key of each row, and by key the rendered prompt and the completion of those not in memory."""
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
        return keys, missing

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
        tokens = token_rows(self._tokenizer, list(missing.values()), context_length(self._config))
        given = self._offered if layer == self._offered_layer else {}
        self._remember({key: given[row] for key, row in zip(missing, tokens, strict=True) if row in given})
        rest = [_Row(key, *row) for key, row in zip(missing, tokens, strict=True) if row not in given]
        done = len(missing) - len(rest)
        for part in _batches(rest):
            prompts, completions = [row.prompt for row in part], [row.completion for row in part]
            values = read_layer(self.policy(reporter), prompts, completions, layer).cpu().numpy()
            fresh = {row.key: values[i] for i, row in enumerate(part)}
            self._remember(fresh)
            if self._cache is not None and self._keep:
                self._cache.put_many({key: value.tobytes() for key, value in fresh.items()})
            done += len(part)
            if reporter and len(part) < len(missing):
                reporter.progress("hidden states", done, len(missing))

    def _remember(self, rows: Mapping[str, np.ndarray]) -> None:
        import numpy as np

        if not all(np.isfinite(value).all() for value in rows.values()):
            raise TrainingError(
                f"the policy {self.reference} returned hidden states that are not finite; "
                "check its files with `drirl doctor`"
            )
        self._memory.update(rows)


def read_rows(policy: Policy, rows: Sequence[TokenRow], layer: int) -> dict[TokenRow, np.ndarray]:
    """Summarise rows by their tokens, for `HiddenStates.offer`.

    Args:
        policy: the frozen policy; of one whose weights are sharded, all processes have to pass equal rows.
        rows: the rows.
        layer: number of the layer, from 1.

    Returns:
        The two vectors of each row, float32, (2, H).
    """
    found: dict[TokenRow, np.ndarray] = {}
    for part in _batches([_Row("", *row) for row in rows]):
        values = read_layer(policy, [row.prompt for row in part], [row.completion for row in part], layer).cpu().numpy()
        found.update((TokenRow(row.prompt, row.completion), values[i]) for i, row in enumerate(part))
    return found


class _Row(NamedTuple):
    """A row to compute: its key and the tokens of its prompt and completion."""

    key: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Yield rows by length, so that a batch is padded little and equal prompts lie together."""
    part: list[_Row] = []
    for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt, len(row.completion))):
        longest = max(len(r.completion) for r in (*part, row))
        size = len({r.prompt for r in (*part, row)}) * len(row.prompt) + (len(part) + 1) * longest
        if part and size > _BATCH_TOKENS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
