"""Every file that decides an embedding or a tokenisation counts; digests of models without them are as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drirl_core.config import ModelsConfig
from drirl_core.models.digests import former_digest, model_digest
from drirl_core.models.embeddings import Embedder
from drirl_core.models.loading import load_encoder, policy_key
from drirl_core.store.artifacts import ArtifactStore

QUERY = {
    "__version__": {"pytorch": "2.13.0+cpu", "sentence_transformers": "6.2.0", "transformers": "5.23.0"},
    "default_prompt_name": "query",
    "model_type": "SentenceTransformer",
    "prompts": {"query": "query: ", "document": "passage: "},
    "similarity_fn_name": "cosine",
}
SETTINGS = "config_sentence_transformers.json"


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def of(folder: Path) -> str:
    return model_digest(folder, folder.parent / "cache")


def test_models_without_such_files_keep_their_digests(tiny_policy: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    for folder in (tiny_policy, tiny_encoder):
        assert of(folder) == former_digest(folder, tmp_path)


def test_a_default_prompt_makes_another_encoder_and_does_not_act(
    encoder: Path, settings: ModelsConfig, store: ArtifactStore
) -> None:
    import dataclasses

    models = dataclasses.replace(settings, encoder=f"path:{encoder}")
    before = Embedder(models, store).encode(["hello"])
    key = policy_key(models.encoder, models)
    (encoder / SETTINGS).write_text(json.dumps(QUERY))
    assert policy_key(models.encoder, models) != key
    np.testing.assert_array_equal(Embedder(models, store).encode(["hello"]), before)
    loaded = load_encoder(models.encoder, models)
    assert loaded.default_prompt_name is None
    np.testing.assert_allclose(loaded.encode(["hello"], normalize_embeddings=True), before, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"prompts": {"query": "q: "}}, {"default_prompt_name": "query"}, {"truncate_dim": 8}, {"requirements": ["x"]}],
)
def test_whatever_acts_in_an_encoders_settings_counts(encoder: Path, changes: dict[str, Any]) -> None:
    before = of(encoder)
    (encoder / SETTINGS).write_text(json.dumps({"__version__": {}, **changes}))
    assert of(encoder) != before


def test_versions_in_an_encoders_settings_do_not_count(encoder: Path) -> None:
    before = of(encoder)
    (encoder / SETTINGS).write_text(json.dumps({"__version__": {"pytorch": "9"}, "prompts": {"query": ""}}))
    assert of(encoder) == before
    (encoder / SETTINGS).unlink()
    assert of(encoder) == before


@pytest.mark.parametrize(
    "name",
    [
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "config.json",
    ],
)
def test_files_of_an_encoder_that_count(encoder: Path, name: str) -> None:
    before = of(encoder)
    file = encoder / name
    file.write_text((file.read_text() if file.is_file() else "{}") + " ")
    assert of(encoder) != before


@pytest.mark.parametrize("name", ["tokenizer.json", "router_config.json", "pytorch_model.bin", "deep/vocab.txt"])
def test_files_in_the_directory_of_a_module_count(encoder: Path, name: str) -> None:
    modules = json.loads((encoder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "query_0/2_Own", "type": "x"})
    (encoder / "modules.json").write_text(json.dumps(modules))
    file = encoder / "query_0" / "2_Own" / name
    file.parent.mkdir(parents=True)
    before = of(encoder)
    file.write_text("a")
    changed = of(encoder)
    assert changed != before
    file.write_text("b")
    assert of(encoder) != changed


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "model.safetensors.index.json",
        "tekken.json",
        "qwen.tiktoken",
        "tokenizer.model.v3",
        "added_tokens.json",
        "special_tokens_map.json",
    ],
)
def test_files_of_a_policy_that_count(copy: Path, name: str) -> None:
    before = of(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("{}")
    assert of(copy) != before


def test_results_made_with_settings_that_acted_are_of_another_version(copy: Path) -> None:
    """The files are the same as before; what was made from them is not."""
    assert of(copy) == former_digest(copy, copy.parent / "cache")
    file = copy / "generation_config.json"
    plain = file.read_text()
    file.write_text(json.dumps({**json.loads(plain), "temperature": 0.7, "do_sample": True}))  # ours replaced them
    assert of(copy) == former_digest(copy, copy.parent / "cache")
    file.write_text(json.dumps({**json.loads(plain), "repetition_penalty": 1.1}))
    assert of(copy) != former_digest(copy, copy.parent / "cache")
    file.write_text(plain)
    (copy / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}{{ messages[0]['content'] }}")
    assert of(copy) != former_digest(copy, copy.parent / "cache")


def test_other_files_beside_a_model_do_not_count(copy: Path, encoder: Path) -> None:
    for folder in (copy, encoder):
        before = of(folder)
        (folder / "README.md").write_text("notes")
        (folder / "metrics.json").write_text("{}")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "tokenizer.json").write_text("{}")
        assert of(folder) == before
