"""The probe at load: what would be an IndexError deep in a library becomes a message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.loading import load_encoder, load_policy


def _rows(folder: Path, rows: int) -> Path:
    """Give a model a smaller embedding than its tokenizer needs."""
    config = LlamaConfig.from_pretrained(folder)
    config.vocab_size, config.pad_token_id, config.eos_token_id = rows, None, None
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rows", [100, 258, 260])
def test_more_tokens_than_rows(copy: Path, settings: ModelsConfig, rows: int) -> None:
    """Bytes have the ids 0 to 255, and five special tokens those after them."""
    with pytest.raises(
        ModelError,
        match=rf"has the token .* with id \d+, but the model has only {rows} embedding rows; tokenizer and weights do not belong",
    ):
        load_policy(_rows(copy, rows), settings)


def test_bytes_without_a_row(copy: Path, settings: ModelsConfig) -> None:
    """All special tokens and the rendered turn have one."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    found = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = found["model"]["vocab"]
    last = max(vocabulary, key=lambda token: vocabulary[token])
    vocabulary[last] = len(tokenizer)
    (copy / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ModelError, match=r"the vocabulary has the token .* with id 261, but the model has only 261"):
        load_policy(copy, settings)


def test_tokens_that_nothing_uses_may_have_no_row(copy: Path, settings: ModelsConfig) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(copy)
    assert load_policy(copy, settings).depth == 2


def test_a_padding_token_that_was_added_without_a_row(copy: Path, settings: ModelsConfig) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(copy)
    with pytest.raises(ModelError, match=r"pad_token has the token '\[PAD\]' with id 261, but the model has only 261"):
        load_policy(copy, settings)


def _without(folder: Path, *names: str) -> None:
    file = folder / "tokenizer_config.json"
    found = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in found.items() if name not in names}))


def test_a_model_without_any_end_token(copy: Path, settings: ModelsConfig) -> None:
    _without(copy, "eos_token", "pad_token")
    for name in ("config.json", "generation_config.json"):
        found = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**found, "eos_token_id": None}))
    with pytest.raises(ModelError, match=r"there is no end token, so that a completion would never end; set eos_token"):
        load_policy(copy, settings)


def test_the_end_token_of_the_model_stands_in_for_the_tokenizers(copy: Path, settings: ModelsConfig) -> None:
    _without(copy, "eos_token", "pad_token")
    policy = load_policy(copy, settings)
    assert policy.tokenizer.eos_token == policy.tokenizer.pad_token == "<|end|>"


def test_an_encoder_that_is_asked_for_more_positions_than_it_has(
    tiny_encoder: Path, tmp_path: Path, settings: ModelsConfig
) -> None:
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    file = encoder / "sentence_bert_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_seq_length": 512}))
    tokenizer = encoder / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "model_max_length": 512}))
    with pytest.raises(ModelError, match=r"cannot encode a long text \(.*\); max_seq_length .* is 512: lower it"):
        load_encoder(f"path:{encoder}", settings)
