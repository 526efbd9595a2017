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
    files = sorted({file for pattern in DECIDING_FILES for file in folder.glob(pattern)})
    return "-".join(file_digest(file, cache) for file in files)


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
