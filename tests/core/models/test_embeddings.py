"""Sentence embeddings: unit rows, stored per text, and a model that loads only when it is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError, TrainingError
from drirl_core.models import embeddings
from drirl_core.models.embeddings import Embedder
from drirl_core.models.loading import load_encoder
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter

TEXTS = ["hello", "a much longer text with many words in it", "", "hello", "naïve 東京 😀"]


class Counting:
    """Wrap the encoder and count what it is given."""

    def __init__(self) -> None:
        self.loads = 0
        self.texts: list[str] = []

    def load(self, reference: str, models: ModelsConfig) -> Counting:
        self.loads += 1
        self._inner = load_encoder(reference, models)
        return self

    def encode(self, texts: list[str], **how: object) -> np.ndarray:
        self.texts += texts
        return self._inner.encode(texts, **how)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counter = Counting()
    monkeypatch.setattr(embeddings, "load_encoder", counter.load)
    return counter


def test_rows_are_unit_float32_and_in_order(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    embedder = Embedder(tiny_models, store)
    rows = embedder.encode(TEXTS)
    assert (rows.shape, rows.dtype, embedder.dim, embedder.reference) == ((5, 32), np.float32, 32, tiny_models.encoder)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[3])
    plain = load_encoder(tiny_models.encoder, tiny_models).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(rows, plain, atol=1e-5)
    np.testing.assert_array_equal(embedder.encode(TEXTS[::-1]), rows[::-1])


def test_equal_texts_are_computed_once_and_stored(
    tiny_models: ModelsConfig, store: ArtifactStore, counting: Counting
) -> None:
    embedder = Embedder(tiny_models, store)
    assert counting.loads == 0
    rows = embedder.encode(TEXTS)
    assert (counting.loads, sorted(counting.texts)) == (1, sorted(set(TEXTS)))
    np.testing.assert_array_equal(embedder.encode(TEXTS), rows)
    reopened = Embedder(tiny_models, store)  # as another process: everything comes from the store
    np.testing.assert_array_equal(reopened.encode(TEXTS), rows)
    assert (counting.loads, len(counting.texts)) == (1, 4)
    reopened.encode([*TEXTS, "new"])
    assert (counting.loads, counting.texts[4:]) == (2, ["new"])


def test_no_texts(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    assert Embedder(tiny_models, store).encode([]).shape == (0, 32)


def test_another_encoder_has_its_own_rows(tiny_models: ModelsConfig, store: ArtifactStore, tmp_path: Path) -> None:
    import dataclasses

    from drirl_core.testing import make_tiny_encoder

    other = dataclasses.replace(tiny_models, encoder=f"path:{make_tiny_encoder(tmp_path / 'other', seed=1)}")
    first, second = Embedder(tiny_models, store).encode(["hello"]), Embedder(other, store).encode(["hello"])
    assert abs(float(first[0] @ second[0])) < 0.99
    np.testing.assert_array_equal(Embedder(tiny_models, store).encode(["hello"]), first)


def test_progress_of_long_work(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    reporter = RecordingReporter()
    embedder = Embedder(tiny_models, store)
    embedder.encode([f"text {i}" for i in range(70)], reporter)
    assert reporter.done == {"embedding texts": (70, 70)}


def test_values_that_are_not_finite_are_refused_and_not_stored(
    tiny_models: ModelsConfig, store: ArtifactStore, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(tiny_models, store)
    monkeypatch.setattr(counting, "encode", lambda texts, **_: np.full((len(texts), 32), np.nan))
    with pytest.raises(TrainingError, match="returned values that are not finite"):
        embedder.encode(["hello"])
    monkeypatch.undo()
    assert np.isfinite(Embedder(tiny_models, store).encode(["hello"])).all()


def test_a_missing_encoder_is_reported_at_once(store: ArtifactStore) -> None:
    with pytest.raises(ModelError, match="is not a directory"):
        Embedder(ModelsConfig(policy="path:/nowhere", encoder="path:/nowhere"), store)
