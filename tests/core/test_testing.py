"""The public tiny models and settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drirl_core.graph.layout import build_graph
from drirl_core.models.loading import load_encoder, load_policy
from drirl_core.testing import make_tiny_policy, tiny_config


def test_the_tiny_configuration_can_be_run(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"policy.steps": 1})
    assert config.policy.steps == 1
    policy = load_policy(config.models.policy, config.models)
    assert sum(weight.numel() for weight in policy.model.parameters()) < 50_000
    assert policy.tokenizer.decode(policy.tokenizer("naïve 東京 😀")["input_ids"]) == "naïve 東京 😀"
    assert load_encoder(config.models.encoder, config.models).encode(["x"]).shape == (1, 32)
    assert len(build_graph(config).nodes) > 30
    before = (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns
    assert tiny_config(tmp_path, {"policy.steps": 1}) == config
    assert (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns == before  # existing models are kept


def test_the_seed_determines_the_weights(tmp_path: Path) -> None:
    files = [make_tiny_policy(tmp_path / str(i), seed=seed) / "model.safetensors" for i, seed in enumerate((0, 0, 1))]
    first, same, other = (file.read_bytes() for file in files)
    assert first == same
    assert first != other


def test_drirl_core_imports_neither_dagster_nor_torch() -> None:
    """A new process that imports the light modules has loaded neither Dagster nor torch."""
    modules = [
        "completions.stage", "config", "errors", "graph.build", "graph.plan", "hardness.equations", "models.embeddings", "models.loading",
        "models.sampling", "reporting", "store.artifacts", "store.rowcache", "store.tables", "taxonomy", "testing",
    ]  # fmt: skip
    imports = "; ".join(f"import drirl_core.{name}" for name in modules)
    heavy = ("dagster", "torch", "transformers", "pipeline")
    code = f"import sys; {imports}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
