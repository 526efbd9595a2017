"""Files on a local disk: hashes, writes that survive a power cut, and explained disk errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from drirl_core.errors import ArtifactError, DrirlError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 20


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


def replace_text(path: Path, text: str) -> None:
    """Write a complete text or nothing, in place of a file that may be there and that others may be reading.

    Args:
        path: the file; its directory exists.
        text: its content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_synced(path: Path, text: str) -> bool:
    """Write a complete file, unless there is one: of several writers exactly one succeeds.

    Args:
        path: the file; its directory exists.
        text: its content.

    Returns:
        Whether it was written; False when there was a file already, which is not changed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write_synced(temporary, text)
        os.link(temporary, path)  # unlike a rename it never replaces
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors_explained(path: Path, way_out: str = "set `root` to another") -> Iterator[None]:
    """Explain the disk errors that a user can fix; leave other errors unchanged.

    Args:
        path: what is written.
        way_out: how it is written elsewhere; `disk` or `directory` follows.
    """
    try:
        yield
    except DrirlError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in _FULL or (code is None and _is_full(path, str(error))):
            free = shutil.disk_usage(existing(path)).free / 1e9
            raise ArtifactError(
                f"the disk of {path} is full ({free:.1f} GB free); free some space or {way_out} disk, then run again"
            ) from error
        if isinstance(error, OSError) and code in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ArtifactError(
                f"{error.filename or path} cannot be used ({error.strerror}); fix its permissions or {way_out} "
                "directory"
            ) from error
        raise


def _is_full(path: Path, message: str) -> bool:
    """Tell whether an error that is not an OSError came from a full disk: torch and safetensors have their own."""
    if any(os.strerror(code) in message for code in _FULL):
        return True
    probe = existing(path.parent) / f".probe-{os.getpid()}"
    full = False
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        sync(probe)
    except OSError as error:
        full = error.errno in _FULL
    with contextlib.suppress(OSError):
        probe.unlink()
    return full


def existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    path = path.absolute()
    return path if path.exists() or path == path.parent else existing(path.parent)
