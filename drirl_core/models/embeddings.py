"""Sentence embeddings, stored per text.

Texts are encoded without a prompt. Some encoders put one before every text by default (`default_prompt_name` in
config_sentence_transformers.json); it would change every similarity without being named anywhere in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drirl_core.config import ModelsConfig
from drirl_core.errors import TrainingError
from drirl_core.models.loading import load_encoder, policy_key
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key

if TYPE_CHECKING:
    import numpy as np

_BATCH = 64
_STORED = 1024
"""Texts whose embeddings are stored in one go: each time the file of the cache is opened, synchronised and closed."""
PROMPT = ""
"""What is put before every text."""
RECORD = {"encoder_prompt": PROMPT or "none"}
"""For the metadata of artifacts that are made from embeddings."""


class Embedder:
    """Encode texts with the frozen sentence encoder Phi; the model loads on the first text that is not cached.

    Args:
        models: names the encoder.
        store: holds the cached rows.
    """

    def __init__(self, models: ModelsConfig, store: ArtifactStore) -> None:
        self._models = models
        self._cache = RowCache(store.cache_path("embeddings"))
        self._key = policy_key(models.encoder, models)
        self._memory: dict[str, np.ndarray] = {}
        self._encoder: Any = None

    @property
    def reference(self) -> str:
        """Model reference of the encoder."""
        return self._models.encoder

    @property
    def dim(self) -> int:
        """Width D of an embedding."""
        return int(self.encode([""]).shape[1])

    def encode(self, texts: Sequence[str], reporter: Reporter | None = None) -> np.ndarray:
        """Embed texts.

        Args:
            texts: N texts; equal texts are computed once.
            reporter: receives progress while texts are computed.

        Returns:
            Unit rows, float32, (N, D).

        Raises:
            TrainingError: the encoder returned a value that is not finite.
        """
        import numpy as np

        keys = [content_key(self._key, text) for text in texts]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._memory]
        self._memory.update({k: np.frombuffer(v, dtype=np.float32) for k, v in self._cache.get_many(unknown).items()})
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._memory}
        if missing:
            self._compute(missing, reporter)
        if not keys:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._memory[key] for key in keys])

    def _compute(self, missing: dict[str, str], reporter: Reporter | None) -> None:
        import numpy as np

        if self._encoder is None:
            self._encoder = load_encoder(self._models.encoder, self._models)
        # Sorted by length, so that batches need little padding.
        items = sorted(missing.items(), key=lambda item: len(item[1]))
        fresh: dict[str, np.ndarray] = {}
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            rows = self._encoder.encode(
                [text for _, text in part],
                prompt=PROMPT,
                batch_size=_BATCH,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            ).astype(np.float32)
            if not np.isfinite(rows).all():
                raise TrainingError(
                    f"the encoder {self.reference} returned values that are not finite; "
                    "check its files with `drirl doctor`"
                )
            fresh |= {key: row for (key, _), row in zip(part, rows, strict=True)}
            if len(fresh) >= _STORED or start + _BATCH >= len(items):
                self._memory |= fresh
                self._cache.put_many({key: row.tobytes() for key, row in fresh.items()})
                fresh = {}
            if reporter and len(items) > _BATCH:
                reporter.progress("embedding texts", min(start + _BATCH, len(items)), len(items))
