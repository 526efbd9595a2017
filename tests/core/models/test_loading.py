"""Loading: weights, tokenizer, device and type, and the keys of loaded models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models import loading
from drirl_core.models.loading import device_of, dtype_of, load_encoder, load_policy, policy_key

# -------------------------------------------------------------------------------------------------------------- loading


def test_load_policy(tiny_policy: Path, settings: ModelsConfig) -> None:
    policy = load_policy(tiny_policy, settings)
    assert not policy.model.training
    assert (policy.device.type, policy.tokenizer.padding_side) == ("cpu", "left")
    assert {str(p.dtype) for p in policy.model.parameters()} == {"torch.float32"}
    assert policy.key == policy_key(tiny_policy, settings)


def test_bfloat16_is_another_policy(tiny_policy: Path, settings: ModelsConfig) -> None:
    half = dataclasses.replace(settings, dtype="bfloat16")
    policy = load_policy(tiny_policy, half)
    assert {str(p.dtype) for p in policy.model.parameters()} == {"torch.bfloat16"}
    assert policy.key != policy_key(tiny_policy, settings)


def test_a_missing_chat_template_is_explained(copy: Path, settings: ModelsConfig) -> None:
    for file in copy.glob("*.jinja"):
        file.unlink()
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ModelError, match=r"the tokenizer has no chat template; use an instruct model, or add chat_template\.jinja"
    ):
        load_policy(copy, settings)


def test_a_tokenizer_without_padding_token_pads_with_its_end_token(copy: Path, settings: ModelsConfig) -> None:
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    policy = load_policy(copy, settings)
    assert policy.tokenizer.pad_token == policy.tokenizer.eos_token == "<|end|>"


def test_another_kind_of_model_is_explained(tiny_encoder: Path, copy: Path, settings: ModelsConfig) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    with pytest.raises(ModelError, match=r"cannot be loaded \(.*\); is it the right kind of model, and complete\?"):
        load_policy(copy, settings)
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(copy, settings)


def test_remote_code_is_not_run(copy: Path, settings: ModelsConfig, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (copy / "modeling_evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n")
    config = json.loads((copy / "config.json").read_text())
    config.update(
        model_type="evil", auto_map={"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    )
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_policy(copy, settings)
    assert not marker.exists()


def test_a_tokenizer_is_saved_with_the_same_bytes_online_and_offline(
    tiny_policy: Path, settings: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a policy trained with HF_HUB_OFFLINE=1 would have another version than one trained without."""
    saved = set()
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        folder = tmp_path / str(offline)
        load_policy(tiny_policy, settings).tokenizer.save_pretrained(folder)
        saved.add((folder / "tokenizer_config.json").read_text())
    assert len(saved) == 1


def test_load_encoder(tiny_encoder: Path, settings: ModelsConfig) -> None:
    encoder = load_encoder(f"path:{tiny_encoder}", settings)
    assert encoder.encode(["hello", "world"]).shape == (2, 32)


def test_the_head_gets_contiguous_states_and_gives_the_same_logits(tiny_policy: Path, settings: ModelsConfig) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    policy = load_policy(tiny_policy, settings)
    seen: list[bool] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].is_contiguous()))
    plain = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        ours = policy.model(tokens, logits_to_keep=3).logits
        theirs = plain(tokens, logits_to_keep=3).logits
    assert seen == [True]
    torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------------------------------------------------- keys, types


def test_keys_depend_on_the_content_not_on_the_directory(tiny_policy: Path, copy: Path, settings: ModelsConfig) -> None:
    assert policy_key(copy, settings) == policy_key(f"path:{tiny_policy}", settings)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "chat_template.jinja", "tokenizer.json", "generation_config.json"]
)
def test_keys_change_with_every_file_that_affects_a_completion(copy: Path, settings: ModelsConfig, file: str) -> None:
    before = policy_key(copy, settings)
    if file == "model.safetensors":
        raw = bytearray((copy / file).read_bytes())
        raw[-1] ^= 1
        (copy / file).write_bytes(bytes(raw))
    else:
        (copy / file).write_text((copy / file).read_text() + " ")
    assert policy_key(copy, settings) != before


def test_keys_do_not_change_with_other_files_beside_the_model(copy: Path, settings: ModelsConfig) -> None:
    before = policy_key(copy, settings)
    (copy / "README.md").write_text("notes")
    (copy / "training_log.jsonl").write_text("{}")
    assert policy_key(copy, settings) == before


def test_the_key_of_an_artifact_is_its_version(copy: Path, settings: ModelsConfig) -> None:
    plain = policy_key(copy, settings)
    (copy / "manifest.json").write_text(json.dumps({"asset": "sft_checkpoint", "version": "0123456789abcdef"}))
    published = policy_key(copy, settings)
    assert published != plain
    (copy / "chat_template.jinja").write_text("ignored: an artifact is immutable")
    assert policy_key(copy, settings) == published
    (copy / "manifest.json").write_text(json.dumps({"name": "somebody else's manifest"}))
    assert policy_key(copy, settings) != published


def test_devices_and_types(settings: ModelsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert dtype_of(dataclasses.replace(settings, dtype="bfloat16")) is torch.bfloat16
    assert dtype_of(settings) is torch.float32
    monkeypatch.setattr(loading, "cpu_multiplies_bfloat16", lambda: True)
    assert dtype_of(dataclasses.replace(settings, dtype="auto")) is torch.bfloat16
    monkeypatch.setattr(loading, "cpu_multiplies_bfloat16", lambda: False)
    assert dtype_of(dataclasses.replace(settings, dtype="auto")) is torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(dataclasses.replace(settings, device="auto")).type == "cpu"
    with pytest.raises(ModelError, match=r"models\.device is 'cuda' but torch sees no GPU; set it to auto or cpu"):
        device_of(dataclasses.replace(settings, device="cuda"))


def test_threads_are_set(settings: ModelsConfig) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        device_of(dataclasses.replace(settings, threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_attention_on_a_gpu_is_not_left_to_cudnn(
    tiny_policy: Path, settings: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients are not a number on padded rows; a policy on a CPU leaves the setting alone."""
    monkeypatch.setattr(loading, "device_of", lambda models: torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *places: self)  # there may be no GPU here
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        load_policy(tiny_policy, settings)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
