"""Immutable, content-addressed artifacts: published whole or not at all.

Layout below the root::

    <asset>/<version>/...files..., manifest.json      an artifact; `version` hashes its files
    <asset>/by-input/<fingerprint>.json               which version these inputs, code and configuration gave
    .work/<asset>-<fingerprint>/                      unfinished work, kept over a crash so that a retry resumes
    .cache/*.sqlite                                   rows kept under a content key (completions, embeddings)

An artifact is written in a work directory on the same file system and renamed into place; the manifest inside names
every file with its size and hash, so a reader can tell a damaged or foreign directory from a good one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from drirl_core.errors import ArtifactError, DrirlError

MANIFEST = "manifest.json"
_VERSION_DIGITS = 16
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 20
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""What reading a manifest or index raises that is not JSON, not UTF-8 or of another shape."""


@dataclass(frozen=True)
class Artifact:
    """A published artifact.

    Args:
        asset: name of the asset.
        version: sixteen hexadecimal digits that identify the content.
        path: the directory with the files.
        manifest: inputs, configuration, files, metadata and times.
    """

    asset: str
    version: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Numbers and strings the stage reported."""
        return self.manifest["metadata"]


@dataclass(frozen=True)
class Workspace:
    """Directories of one build.

    Args:
        out: becomes the artifact; empty when the build starts.
        scratch: survives a crash, for checkpoints; removed after publishing.
    """

    out: Path
    scratch: Path


class ArtifactStore:
    """Publish and find artifacts below one root directory.

    Args:
        root: local directory; made on first use.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def cache_path(self, name: str) -> Path:
        """Return the file of the row cache called `name`, its directory made."""
        folder = self.root / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.sqlite"

    def find(self, asset: str, fingerprint: str) -> Artifact | None:
        """Return the artifact these inputs gave earlier, or None when there is none that is whole."""
        try:
            index = json.loads(self._index(asset, fingerprint).read_text(encoding="utf-8"))
            return self.open(asset, index["version"])
        except (OSError, *_UNREADABLE, ArtifactError):
            return None

    def open(self, asset: str, version: str) -> Artifact:
        """Open a published artifact.

        Raises:
            ArtifactError: it does not exist, has no manifest, or a file is missing or has another size.
        """
        path = self.root / asset / version
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            sizes = {str(name): int(entry["bytes"]) for name, entry in manifest["files"].items()}
            if manifest["asset"] != asset or manifest["version"] != version:
                raise ArtifactError(f"{path} is a foreign artifact: its manifest names {manifest['asset']} {manifest['version']}")
        except (OSError, *_UNREADABLE) as error:
            raise ArtifactError(
                f"{asset} {version} is not a published artifact under {self.root} ({error}); materialize {asset} again"
            ) from error
        for name, size in sizes.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise ArtifactError(f"{file} is missing or truncated ({size} bytes expected); delete {path} and materialize {asset} again")
        return Artifact(asset, version, path, manifest)

    def verify(self, artifact: Artifact) -> None:
        """Hash every file again.

        Raises:
            ArtifactError: a file differs from the manifest.
        """
        for name, entry in artifact.manifest["files"].items():
            file = artifact.path / name
            try:
                same = _sha256(file) == entry["sha256"]
            except OSError as error:
                raise ArtifactError(f"{file} cannot be read ({error.strerror}); materialize {artifact.asset} again") from error
            if not same:
                raise ArtifactError(
                    f"{file} differs from what was published; delete {artifact.path} and materialize {artifact.asset} again"
                )

    def latest(self, asset: str) -> Artifact | None:
        """Return the most recently published or reused artifact of an asset, by the index, not by directory times."""
        newest = self._newest_use(asset)
        with contextlib.suppress(ArtifactError):
            return self.open(asset, newest[1]) if newest else None
        return None

    @contextlib.contextmanager
    def building(self, asset: str, fingerprint: str, on_wait: Callable[[str], None] | None = None) -> Iterator[Workspace]:
        """Hold the work directory of one build, alone among all processes of this machine.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration; a retry with the same one finds the same directory.
            on_wait: told once when another process holds the directory.

        Yields:
            The workspace. `out` is emptied, `scratch` is as an earlier attempt left it.
        """
        work = self.root / ".work" / f"{asset}-{fingerprint}"
        lock = FileLock(str(work) + ".lock")
        with _disk_errors_explained(work):
            work.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if on_wait:
                    on_wait(f"another process is building {asset} from the same inputs; waiting for it")
                lock.acquire()
            out, scratch = work / "out", work / "scratch"
            try:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True)
                scratch.mkdir(exist_ok=True)
                yield Workspace(out, scratch)
            finally:
                for folder in (out, scratch, work):  # what is empty goes: nothing was built, or it was published
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                lock.release()

    def publish(
        self,
        asset: str,
        fingerprint: str,
        workspace: Workspace,
        *,
        details: Mapping[str, Any],
        volatile: frozenset[str] = frozenset(),
    ) -> Artifact:
        """Turn `workspace.out` into an artifact by one rename, then index it under the fingerprint.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration.
            workspace: from `building`, still held.
            details: JSON data for the manifest: at least `metadata`, and what made it (`inputs`, `config`, ...).
            volatile: files that may differ between equal results (timings, rendered reports); they are listed in the
                manifest but do not enter the version, which then covers the fingerprint instead.

        Returns:
            The artifact; when equal content was published before, that one.

        Raises:
            ArtifactError: nothing was written, or the disk is full or read-only.
        """
        files = {
            str(file.relative_to(workspace.out)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(workspace.out.rglob("*"))
            if file.is_file()
        }
        if not files:
            raise ArtifactError(f"{asset}: the stage wrote no file; an artifact cannot be empty")
        digest = hashlib.sha256(asset.encode())
        if volatile:
            digest.update(fingerprint.encode())
        for name, entry in files.items():
            if name not in volatile:
                digest.update(f"{name}\0{entry['sha256']}\n".encode())
        version = digest.hexdigest()[:_VERSION_DIGITS]
        manifest = {
            "asset": asset,
            "version": version,
            "fingerprint": fingerprint,
            "created_at": time.time(),
            "files": files,
            **details,
        }
        target = self.root / asset / version
        with _disk_errors_explained(target):
            _write_synced(workspace.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
            for name in files:
                _sync(workspace.out / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._rename(workspace.out, target, asset, version)
            self.touch(asset, fingerprint, version)
            shutil.rmtree(workspace.out.parent, ignore_errors=True)
        return self.open(asset, version)

    def touch(self, asset: str, fingerprint: str, version: str) -> None:
        """Record that these inputs give this version, now.

        Raises:
            ArtifactError: the disk is full or read-only.
        """
        index, newest = self._index(asset, fingerprint), self._newest_use(asset)
        temporary = index.with_suffix(f".{os.getpid()}.tmp")
        # A clock that was set back must not make an older result the latest one.
        used_at = max(time.time(), math.nextafter(newest[0], math.inf)) if newest else time.time()
        with _disk_errors_explained(index):
            index.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(temporary, json.dumps({"version": version, "used_at": used_at}))
            temporary.replace(index)

    def _newest_use(self, asset: str) -> tuple[float, str] | None:
        """Return time and version of the latest entry in an asset's index."""
        uses: list[tuple[float, str]] = []
        for file in (self.root / asset / "by-input").glob("*.json"):
            with contextlib.suppress(OSError, *_UNREADABLE):
                entry = json.loads(file.read_text(encoding="utf-8"))
                uses.append((float(entry["used_at"]), str(entry["version"])))
        return max(uses, default=None)

    def _rename(self, source: Path, target: Path, asset: str, version: str) -> None:
        try:
            source.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            try:  # equal content was published before: keep it if it is whole, else put the new one in its place
                self.open(asset, version)
            except ArtifactError:
                damaged = target.with_name(f".damaged-{version}-{time.time_ns()}")
                target.rename(damaged)
                source.rename(target)
                shutil.rmtree(damaged, ignore_errors=True)
        _sync(target.parent)

    def _index(self, asset: str, fingerprint: str) -> Path:
        return self.root / asset / "by-input" / f"{fingerprint}.json"


def fingerprint(asset: str, code_version: str, inputs: Mapping[str, str]) -> str:
    """Hash what decides an asset: its code and configuration, and the versions of its inputs.

    Args:
        asset: name of the asset.
        code_version: algorithm version and hash of the configuration slice.
        inputs: version of each upstream asset.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps([asset, code_version, dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_DIGITS]


def to_json(value: Any) -> Any:
    """Return `value` as plain JSON data; dataclasses become dicts, paths become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    """Put the disk errors a user can mend into words; leave other errors as they are."""
    try:
        yield
    except DrirlError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in _FULL or (code is None and _is_full(path, str(error))):
            free = shutil.disk_usage(_existing(path)).free / 1e9
            raise ArtifactError(
                f"the disk of {path} is full ({free:.1f} GB free); free some space or set `root` to another disk, then run again"
            ) from error
        if isinstance(error, OSError) and code in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ArtifactError(
                f"{error.filename or path} cannot be used ({error.strerror}); mend its permissions or set `root` to another directory"
            ) from error
        raise


def _is_full(path: Path, said: str) -> bool:
    """Tell whether an error that is no OSError came from a full disk: torch and safetensors raise their own kinds."""
    if any(os.strerror(code) in said for code in _FULL):
        return True
    probe = _existing(path.parent) / f".probe-{os.getpid()}"
    full = False
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
        _sync(probe)
    except OSError as error:
        full = error.errno in _FULL
    with contextlib.suppress(OSError):
        probe.unlink()
    return full


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)
