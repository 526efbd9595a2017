"""Immutable, content-addressed artifacts: published completely or not at all.

Layout below the root::

    <asset>/<version>/...files..., manifest.json      an artifact; `version` hashes its files
    <asset>/by-input/<fingerprint>.json               which version these inputs, code and configuration gave
    .work/<asset>-<fingerprint>/                      unfinished work, kept after a crash so that a retry resumes
    .cache/*.sqlite                                   rows stored under a content key: completions, embeddings, ...

An artifact is written in a work directory on the same file system and renamed into place. The manifest inside names
every file with its size and hash, so that a reader detects a damaged or foreign directory.

When the root is a URI, this layout is a mirror on this machine: complete copies of artifacts in the object store
(`drirl_core.store.remote`), which alone decides what is published. Work directories and row caches stay on this
machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from drirl_core.errors import ArtifactError
from drirl_core.store.disk import disk_errors_explained, sha256, sync, write_synced
from drirl_core.store.index import Index
from drirl_core.store.manifest import MANIFEST, UNREADABLE, VERSION_DIGITS, describe, parse_manifest, read_complete
from drirl_core.store.remote import Remote, UnreachableError, is_uri

if TYPE_CHECKING:
    from drirl_core.config import Config

__all__ = ["MANIFEST", "Artifact", "ArtifactStore", "Workspace", "fingerprint"]

DEFAULT_MIRROR = ".drirl/mirror"


@dataclass(frozen=True)
class Artifact:
    """A published artifact.

    Args:
        asset: name of the asset.
        version: sixteen hexadecimal digits that identify the content.
        path: the directory with the files.
        manifest: inputs, configuration, files, metadata and times.
        uri: its address for other machines, when the root is a URI.
    """

    asset: str
    version: str
    path: Path
    manifest: Mapping[str, Any]
    uri: str | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Numbers and strings that the stage reported."""
        return self.manifest["metadata"]


@dataclass(frozen=True)
class Workspace:
    """Directories of one build.

    Args:
        out: becomes the artifact; empty when the build starts.
        scratch: kept after a crash, for checkpoints; removed after publishing.
    """

    out: Path
    scratch: Path


class ArtifactStore:
    """Publish and find artifacts below one root.

    Args:
        root: local directory, made on first use; or a URI such as `s3://bucket/prefix`.
        mirror: local directory for copies of artifacts at URIs; each URI has its own directory in it.

    Attributes:
        root: the local directory: the root itself, or the mirror of the URI.
        remote: the object store, when the root is a URI.

    Raises:
        ConfigError: the URI cannot be used, or the package for its protocol is missing.
    """

    def __init__(self, root: str | Path, mirror: str | Path = DEFAULT_MIRROR) -> None:
        self.remote = Remote(str(root)) if is_uri(root) else None
        self.root = (Path(mirror) / self.remote.slug if self.remote else Path(root)).absolute()
        self._index = Index(self.root, self.remote)

    @classmethod
    def of(cls, config: Config) -> ArtifactStore:
        """Return the store that a configuration names."""
        return cls(config.root, config.mirror)

    @property
    def place(self) -> str:
        """Where the artifacts are stored, for messages: the directory or the URI."""
        return self.remote.uri if self.remote else str(self.root)

    def cache_path(self, name: str) -> Path:
        """Return the file of the row cache called `name` and make its directory; it stays on this machine."""
        folder = self.root / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.sqlite"

    def find(self, asset: str, fingerprint: str, *, fetch: bool = True) -> Artifact | None:
        """Return the artifact that these inputs gave earlier, or None when there is no complete one.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration.
            fetch: whether files that are not on this machine are copied; if not, only version and manifest are usable.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        version = self._index.version(asset, fingerprint)
        return self._usable(asset, version, fetch) if version else None

    def open(self, asset: str, version: str) -> Artifact:
        """Open a published artifact; files that are not on this machine yet are copied and verified.

        Raises:
            ArtifactError: it does not exist, has no manifest, or a file is missing or has another size.
        """
        try:
            return self._open_here(asset, version)
        except ArtifactError:
            if self.remote is None:
                raise
        self._copy_here(self.remote, asset, version)
        return self._open_here(asset, version)

    def manifest(self, asset: str, version: str) -> Mapping[str, Any] | None:
        """Return the manifest of an artifact without its files, or None when there is none that can be read.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        path = self.root / asset / version
        with contextlib.suppress(OSError, *UNREADABLE, ArtifactError):
            return parse_manifest((path / MANIFEST).read_text(encoding="utf-8"), asset, version, path)
        if self.remote is None:
            return None
        try:
            return self.remote.manifest(asset, version)
        except UnreachableError:
            raise
        except ArtifactError:
            return None

    def was_made(self, asset: str) -> bool:
        """Tell whether any version of this asset was ever published, even if it is deleted or damaged now."""
        return (self.root / asset).is_dir() or bool(self.remote and self.remote.names(asset))

    def require_writable(self) -> None:
        """Check before hours of work that results can be published.

        Raises:
            UnreachableError: the object store cannot be written.
        """
        if self.remote:
            self.remote.require_writable()

    def verify(self, artifact: Artifact) -> None:
        """Hash every file again.

        Raises:
            ArtifactError: a file differs from the manifest.
        """
        for name, entry in artifact.manifest["files"].items():
            file = artifact.path / name
            try:
                same = sha256(file) == entry["sha256"]
            except OSError as error:
                raise ArtifactError(
                    f"{file} cannot be read ({error.strerror}); materialize {artifact.asset} again"
                ) from error
            if not same:
                raise ArtifactError(
                    f"{file} differs from what was published; delete {artifact.path} and materialize {artifact.asset} "
                    "again"
                )

    def latest(self, asset: str, *, fetch: bool = True) -> Artifact | None:
        """Return the most recently published or reused artifact of an asset; the index decides, not directory times.

        Args:
            asset: name of the asset.
            fetch: whether files that are not on this machine are copied; if not, only version and manifest are usable.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        version = self._index.newest(asset)
        return self._usable(asset, version, fetch) if version else None

    def records(self, asset: str) -> list[Mapping[str, Any]]:
        """Return what is known about the builds of an asset, the most recently used one first.

        A build that gave the same content as an earlier one has its own record, while the artifact's manifest describes
        the earlier one.

        Returns:
            Mappings with `fingerprint`, `version` and `used_at`, and the `details` of the build as `publish` got them.
            Records that were written without details lack them, unless the manifest has them.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        return [
            {**self._facts(asset, record["version"], record["fingerprint"]), **record}
            for record in self._index.records(asset)
        ]

    def is_complete(self, asset: str, version: str) -> bool:
        """Tell whether an artifact can be opened, without copying it.

        Raises:
            UnreachableError: the object store cannot be reached.
        """
        return self._usable(asset, version, fetch=False) is not None

    def _facts(self, asset: str, version: str, fingerprint: str) -> Mapping[str, Any]:
        """Return the manifest of an artifact if it describes the build with this fingerprint."""
        manifest = self.manifest(asset, version) or {}
        return manifest if manifest.get("fingerprint") == fingerprint else {}

    @contextlib.contextmanager
    def building(
        self, asset: str, fingerprint: str, on_wait: Callable[[str], None] | None = None
    ) -> Iterator[Workspace]:
        """Lock the work directory of one build against all other processes of this machine.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration; a retry with the same hash gets the same directory.
            on_wait: called once with a message when another process holds the directory.

        Yields:
            The workspace. `out` is emptied, `scratch` is as an earlier attempt left it.
        """
        work = self.root / ".work" / f"{asset}-{fingerprint}"
        lock = FileLock(str(work) + ".lock")
        with disk_errors_explained(work):
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
                for folder in (out, scratch, work):  # empty ones are removed: nothing was built, or it was published
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
        """Turn `workspace.out` into an artifact by one rename, then record it in the index under the fingerprint.

        Args:
            asset: name of the asset.
            fingerprint: hash of inputs, code and configuration.
            workspace: from `building`, still held.
            details: JSON data for the manifest: at least `metadata`, and what made it (`inputs`, `config`, ...).
            volatile: files that may differ between equal results (timings, rendered reports); they are listed in the
                manifest but do not enter the version, which covers the fingerprint instead.

        Returns:
            The artifact; when equal content is published already, the earlier one.

        Raises:
            ArtifactError: nothing was written, the disk is full or read-only, or the object store cannot be written. In
                the last case the artifact stays on this machine, and the next build with these inputs publishes it.
        """
        manifest = describe(asset, fingerprint, workspace.out, details, volatile)
        version = manifest["version"]
        target = self.root / asset / version
        with disk_errors_explained(target):
            write_synced(workspace.out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
            for name in manifest["files"]:
                sync(workspace.out / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._rename(workspace.out, target, asset, version)
            self._index.record_here(asset, fingerprint, version, details)
            shutil.rmtree(workspace.out.parent, ignore_errors=True)
        self._upload(asset, fingerprint, version)
        return self.open(asset, version)

    def touch(self, asset: str, fingerprint: str, version: str) -> None:
        """Record that these inputs give this version, now; complete an interrupted upload first."""
        self._index.record_here(asset, fingerprint, version)
        self._upload(asset, fingerprint, version)

    def _upload(self, asset: str, fingerprint: str, version: str) -> None:
        if self.remote:
            here = self.open(asset, version)
            self.remote.upload(asset, version, here.path, here.manifest)
            self._index.upload(asset, fingerprint)

    def _usable(self, asset: str, version: str, fetch: bool) -> Artifact | None:
        """Open an artifact, or return None when it is deleted or damaged; an unreachable store raises instead."""
        try:
            if fetch or self.remote is None:
                return self.open(asset, version)
            with contextlib.suppress(ArtifactError):
                return self._open_here(asset, version)
            manifest = self.remote.manifest(asset, version)
            return Artifact(asset, version, self.root / asset / version, manifest, self._uri(asset, version))
        except UnreachableError:
            raise
        except (ArtifactError, OSError, *UNREADABLE):
            return None

    def _open_here(self, asset: str, version: str) -> Artifact:
        manifest = read_complete(self.root, asset, version)
        return Artifact(asset, version, self.root / asset / version, manifest, self._uri(asset, version))

    def _copy_here(self, remote: Remote, asset: str, version: str) -> None:
        """Copy an artifact from the object store, once for all processes of this machine, and by one rename."""
        work, target = self.root / ".work" / f"fetch-{asset}-{version}", self.root / asset / version
        with disk_errors_explained(target):
            work.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(str(work) + ".lock"):
                with contextlib.suppress(ArtifactError):
                    self._open_here(asset, version)
                    return
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                try:
                    remote.fetch(asset, version, work)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._rename(work, target, asset, version)
                finally:
                    shutil.rmtree(work, ignore_errors=True)

    def _uri(self, asset: str, version: str) -> str | None:
        return f"{self.remote.uri}/{asset}/{version}" if self.remote else None

    def _rename(self, source: Path, target: Path, asset: str, version: str) -> None:
        try:
            source.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            try:  # equal content is published already: keep it if it is complete, else replace it
                self._open_here(asset, version)
            except ArtifactError:
                damaged = target.with_name(f".damaged-{version}-{time.time_ns()}")
                target.rename(damaged)
                source.rename(target)
                shutil.rmtree(damaged, ignore_errors=True)
        sync(target.parent)


def fingerprint(asset: str, code_version: str, inputs: Mapping[str, str]) -> str:
    """Hash what determines an asset: its code and configuration, and the versions of its inputs.

    Args:
        asset: name of the asset.
        code_version: algorithm version and hash of the configuration slice.
        inputs: version of each upstream asset.

    Returns:
        Sixteen hexadecimal digits.
    """
    text = json.dumps([asset, code_version, dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]
