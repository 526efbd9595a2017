"""Files of a model directory: pointers to large files, shards that are not there, and parts of two models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.loading import load_policy
from drirl_core.models.references import resolve

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000000000\n"
FIRST, SECOND, INDEX = (
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
)


@pytest.fixture
def sharded(copy: Path) -> Path:
    """The tiny policy in two shards with an index."""
    weights = load_file(copy / "model.safetensors")
    names = sorted(weights)
    half = len(names) // 2
    parts = {FIRST: names[:half], SECOND: names[half:]}
    for file, own in parts.items():
        save_file({name: weights[name] for name in own}, copy / file, metadata={"format": "pt"})
    (copy / "model.safetensors").unlink()
    where = {name: file for file, own in parts.items() for name in own}
    (copy / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return copy


def test_a_sharded_model_is_sound(sharded: Path, settings: ModelsConfig) -> None:
    assert load_policy(sharded, settings).depth == 2


@pytest.mark.parametrize("name", [FIRST, "tokenizer.json", "config.json"])
def test_pointers_to_large_files_are_named(sharded: Path, settings: ModelsConfig, name: str) -> None:
    (sharded / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name} is not .* but a pointer to it.*git lfs pull"):
        resolve(sharded, settings)


def test_a_shard_that_the_index_names_and_that_is_not_there(sharded: Path, settings: ModelsConfig) -> None:
    (sharded / SECOND).unlink()
    with pytest.raises(ModelError, match=rf"{INDEX} names {SECOND}, but .* does not hold it; the model is incomplete"):
        resolve(sharded, settings)
    (sharded / FIRST).unlink()
    with pytest.raises(ModelError, match=rf"names {FIRST}, {SECOND}, but .* does not hold them"):
        resolve(sharded, settings)


def test_a_truncated_shard(sharded: Path, settings: ModelsConfig) -> None:
    (sharded / SECOND).write_bytes((sharded / SECOND).read_bytes()[:-1])
    with pytest.raises(ModelError, match=rf"{SECOND} is truncated"):
        resolve(sharded, settings)


def test_an_index_of_another_model(sharded: Path, settings: ModelsConfig) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = SECOND
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=rf"{SECOND} does not hold model\.layers\.9\.mlp\.up_proj\.weight"):
        resolve(sharded, settings)
    (sharded / INDEX).write_text("[]")
    with pytest.raises(ModelError, match=rf"{INDEX} is damaged"):
        resolve(sharded, settings)


def test_parts_without_an_index(sharded: Path, settings: ModelsConfig) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(ModelError, match=rf"has the 2 parts of model\.safetensors, but not {INDEX}"):
        resolve(sharded, settings)
    (sharded / FIRST).unlink()
    with pytest.raises(ModelError, match=rf"does not hold {FIRST}; the model is incomplete"):
        resolve(sharded, settings)


def test_weights_that_are_in_no_file_are_not_made_up(copy: Path, settings: ModelsConfig) -> None:
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "layers.1" in name and "q_proj" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, copy / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"1 weights are in none of its files, such as .*q_proj.*, and would be random"
    ):
        load_policy(copy, settings)
