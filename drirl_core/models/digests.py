"""Digests of large files: computed from the content, and stored under the size and times of the file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from drirl_core.models.templates import reads_defaults

DECIDING_FILES = (
    "*.safetensors",
    "*/*.safetensors",
    "*config.json",
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "modules.json",
    "*/config.json",
)
"""Files of a model directory that determine what it computes; tokenizer and chat template count like the weights."""

LATER_DECIDING_FILES = (
    "*.index.json",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "tekken.json",
    "*.tiktoken",
    "tokenizer.model.*",
)
"""Further ones, which did not count in earlier versions. Few models have one, so most digests did not change."""

MODULE_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "*.jinja")
"""Files that count in the directory of a module of a sentence encoder, which modules.json names, at any depth."""

ENCODER_SETTINGS = "config_sentence_transformers.json"
"""Settings of a sentence encoder; they count where they hold more than versions and empty prompts."""

SET_ASIDE = "own-settings"
"""Part of the digest of a directory whose generation settings or template no longer decide alone."""
_NEVER_ACTED = frozenset(
    {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"}
    | {"do_sample", "temperature", "top_p", "top_k", "max_length"}
)
"""Generation settings that are kept, or that our own settings have always replaced."""

FOLDER = "digests"
KEPT_BYTES = 1 << 20
"""Smaller files are hashed faster than a stored digest is read."""
SETTLED_S = 2.0
"""A file changed more recently may change again within one tick of the clock: its digest is not stored."""


def model_digest(folder: Path, cache: Path) -> str:
    """Return what identifies the content of a model directory.

    Args:
        folder: the directory; for an artifact, the version in its manifest is used.
        cache: directory of models, below which digests of large files are stored.

    Returns:
        A version, or the digests of its files; empty for a directory that is missing or holds none of them.

    Raises:
        OSError: a file cannot be read.
        ValueError: its manifest is not JSON.
    """
    manifest = folder / "manifest.json"
    published = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if isinstance(published, dict) and {"asset", "version"} <= published.keys():
        return str(published["version"])
    parts = [file_digest(file, cache) for file in deciding_files(folder)]
    return "-".join([*parts, SET_ASIDE] if parts and sets_aside(folder) else parts)


def former_digest(folder: Path, cache: Path) -> str:
    """Return the digest that earlier versions gave a model directory, without `LATER_DECIDING_FILES` and the like.

    What is stored under it, such as a learned reward, is still that of these weights, tokenizer and chat template.

    Args:
        folder: the directory.
        cache: directory of models, below which digests of large files are stored.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted({file for pattern in DECIDING_FILES for file in folder.glob(pattern)})
    return "-".join(file_digest(file, cache) for file in files)


def sets_aside(folder: Path) -> bool:
    """Return whether a policy's directory holds settings that once decided completions and do not any more.

    These are generation settings beyond special tokens, and a chat template that reads the date or a switch for
    thinking. Results made with them are of another version than those made without.

    Args:
        folder: the directory.
    """
    generation = _loaded(folder / "generation_config.json")
    settings = generation if isinstance(generation, dict) else {}
    if any(value is not None and value is not False for name, value in settings.items() if name not in _NEVER_ACTED):
        return True
    files = [*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja"), folder / "chat_template.json"]
    files.append(folder / "tokenizer_config.json")
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    return any(reads_defaults(text) for text in texts)


def deciding_files(folder: Path) -> list[Path]:
    """Return the files of a model directory that decide what it computes, sorted.

    Args:
        folder: the directory.

    Raises:
        OSError: a file that names others cannot be read.
    """
    found = {file for pattern in (*DECIDING_FILES, *LATER_DECIDING_FILES) for file in folder.glob(pattern)}
    for module in _modules(folder):
        found |= {file for pattern in MODULE_FILES for file in module.rglob(pattern) if file.is_file()}
    settings = folder / ENCODER_SETTINGS
    return sorted(found | {settings} if settings.is_file() and _decides(settings) else found)


def _modules(folder: Path) -> list[Path]:
    """Return the directories of an encoder's modules, its own directory left out."""
    listed = _loaded(folder / "modules.json")
    names = [entry.get("path") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [folder / name for name in names if isinstance(name, str) and name and (folder / name).is_dir()]


def _decides(settings: Path) -> bool:
    """Return whether an encoder's settings hold more than versions, a name and empty prompts."""
    found = _loaded(settings)
    if not isinstance(found, dict):
        return True
    prompts = found.get("prompts") or {}
    quiet = found.get("default_prompt_name") is None and isinstance(prompts, dict) and not any(prompts.values())
    plain = {"__version__", "prompts", "default_prompt_name", "similarity_fn_name", "model_type"}
    return not quiet or bool(found.keys() - plain)


def _loaded(file: Path) -> Any:
    """Read a JSON file; None where it is missing or damaged, which whoever loads the model reports."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def file_digest(file: Path, cache: Path) -> str:
    """Hash a file, or return its stored hash if the file is unchanged since.

    Args:
        file: the file.
        cache: directory of models, below which digests of large files are stored.

    Raises:
        OSError: the file cannot be read.
    """
    seen = file.stat()
    stamp = f"{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns} {seen.st_ino}"
    settled = time.time() - max(seen.st_mtime, seen.st_ctime) > SETTLED_S
    return kept_digest(file.absolute(), stamp, cache) if settled and seen.st_size >= KEPT_BYTES else hash_file(file)


@functools.lru_cache(maxsize=256)
def kept_digest(file: Path, stamp: str, cache: Path) -> str:
    """Return the stored digest of a file with this stamp, or hash the file and store the digest.

    Args:
        file: absolute path of the file.
        stamp: its size, times and inode.
        cache: directory of models, below which digests are stored.
    """
    note = cache / FOLDER / hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("stamp") == stamp:
            return str(found["digest"])
    digest = hash_file(file)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=note.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(json.dumps({"file": str(file), "stamp": stamp, "digest": digest}))
        os.replace(temporary, note)
    return digest


def hash_file(file: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
