"""Shared by all tests: no network, few threads, and tiny models that are made once per session."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers or huggingface_hub are imported anywhere
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# One thread each where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

from pathlib import Path

import pytest
from hypothesis import settings

from drirl_core.config import ModelsConfig
from drirl_core.store.artifacts import ArtifactStore

settings.register_profile("drirl", deadline=None)  # a busy machine is not a failure
settings.load_profile("drirl")


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random two-layer Llama; read only."""
    from drirl_core.testing import make_tiny_policy

    return make_tiny_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a random sentence encoder with 32 dimensions; read only."""
    from drirl_core.testing import make_tiny_encoder

    return make_tiny_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="session")
def tiny_models(tiny_policy: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelsConfig:
    """Return settings that name the tiny models: one CPU thread, float32."""
    return ModelsConfig(
        policy=f"path:{tiny_policy}",
        encoder=f"path:{tiny_encoder}",
        dtype="float32",
        device="cpu",
        threads=1,
        cache=str(tmp_path_factory.mktemp("model_cache")),
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return an empty artifact store."""
    return ArtifactStore(tmp_path / "artifacts")
