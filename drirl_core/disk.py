"""Files on a local disk: hashes, writes that survive a power cut, and disk errors in words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from drirl_core.errors import ArtifactError


def sha256(path: Path) -> str:
    """Hash the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, text: str) -> None:
    """Write a text and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Put the disk errors a user can mend into words; leave other errors as they are."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(existing(path)).free / 1e9
            raise ArtifactError(
                f"the disk of {path} is full ({free:.1f} GB free); free some space or set `root` to another disk, then run again"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ArtifactError(
                f"{error.filename or path} cannot be used ({error.strerror}); mend its permissions or set `root` to another directory"
            ) from error
        raise


def existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    path = path.absolute()
    return path if path.exists() or path == path.parent else existing(path.parent)
