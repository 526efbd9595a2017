"""The object store behind an artifact root that is a URI: what other machines see.

Layout below the URI::

    <asset>/<version>/<first digits of the hash>/<name>     the files, under names that equal content shares
    <asset>/<version>/manifest.json                         written last: without it there is no artifact
    <asset>/by-input/<fingerprint>.json                     as on a disk

An object store has no rename, so writing the manifest is what publishes. The hash in a file's path keeps two machines
that publish the same version at the same time from mixing their files: a manifest only names the files it was written
with. It also lets an interrupted upload continue where it stopped.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drirl_core.errors import ArtifactError, ConfigError, DrirlError, nearest
from drirl_core.redaction import redact_text
from drirl_core.store.disk import create_synced, sha256
from drirl_core.store.manifest import MANIFEST, UNREADABLE, file_sizes, parse_manifest

_URI = re.compile(r"^[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
_LIKELY = ("abfs", "file", "gcs", "gs", "hdfs", "memory", "s3", "sftp")
_EXTRAS = {"s3fs": '"drirl[s3]"'}
_HASH_DIGITS = 16


class UnreachableError(ArtifactError):
    """Say that a remote root cannot be reached or used; it says nothing about what is stored there."""


def is_uri(root: str | Path) -> bool:
    """Tell whether a root names a file system by URI rather than a directory."""
    return isinstance(root, str) and bool(_URI.match(root))


def check_uri(root: str) -> None:
    """Refuse a URI that holds secrets or names no location; a directory is fine.

    Raises:
        ConfigError: it has a password, a query, several protocols, or nothing after the protocol.
    """
    if not is_uri(root):
        return
    protocol, _, rest = root.partition("://")
    host = rest.partition("/")[0]
    if "@" in host and ":" in host.rpartition("@")[0]:
        raise ConfigError(
            f"root holds a user name and a password for {protocol}://{host.rpartition('@')[2]}; settings are copied "
            "into every artifact, so remove them and put credentials where the file system looks for them "
            "(environment, files)"
        )
    if "?" in rest or "#" in rest:
        raise ConfigError(
            f"root {redact_text(root)!r} has a query; give protocol, bucket and prefix only, such as s3://bucket/prefix"
        )
    if "::" in root:
        raise ConfigError(
            f"root {redact_text(root)!r} chains file systems; name the one that holds the artifacts, "
            "such as s3://bucket/prefix"
        )
    if not rest.strip("/"):
        raise ConfigError(f"root {root!r} names no bucket; write bucket and prefix, such as s3://bucket/prefix")


def require_protocol(uri: str) -> None:
    """Make sure that the package for a URI's protocol is installed, without importing it.

    Raises:
        ConfigError: it is not, or there is no such protocol; the message names the pip command.
    """
    from fsspec.registry import available_protocols, known_implementations

    protocol = uri.partition("://")[0]
    if protocol not in available_protocols():
        raise ConfigError(f"root {uri!r}: the protocol {protocol!r} is not known; {nearest(protocol, _LIKELY)}")
    package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"root {uri!r} needs the package {package}; install it: pip install {_EXTRAS.get(package, package)}"
        )


class Remote:
    """Artifacts below a URI.

    Args:
        uri: such as `s3://bucket/prefix`; credentials come from where the protocol's file system looks for them.

    Raises:
        ConfigError: the URI cannot be used, or a package is missing.
    """

    def __init__(self, uri: str) -> None:
        check_uri(uri)
        require_protocol(uri)
        from fsspec.core import url_to_fs

        self.uri = uri.rstrip("/")
        # Other machines write there too: a cached listing would hide what they publish.
        options = {"use_listings_cache": False, **({"auto_mkdir": True} if uri.startswith(("file:", "local:")) else {})}
        with self._explained("opened"):
            self._files, base = url_to_fs(uri, **options)
        self._base = base.rstrip("/")

    @property
    def slug(self) -> str:
        """Name of the directory that mirrors it: readable, and different for different URIs."""
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.uri)[:48]}-{hashlib.sha256(self.uri.encode()).hexdigest()[:8]}"

    def require_writable(self) -> None:
        """Write a small object, so that a run fails at its start, not after hours, when it cannot publish.

        Raises:
            UnreachableError: it cannot be written.
        """
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder) / "writable"
            note.write_text("drirl can write here\n", encoding="utf-8")
            self.put(note, ".writable")

    def upload(self, asset: str, version: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Publish an artifact: its files, then its manifest; files of an interrupted upload are reused.

        Args:
            asset: name of the asset.
            version: version of the artifact.
            folder: its directory on this machine.
            manifest: its manifest.

        Raises:
            UnreachableError: the upload was interrupted; nothing is visible, and the next attempt continues it.
        """
        prefix = f"{asset}/{version}"
        there = self.sizes(prefix)
        for name, entry in manifest["files"].items():
            key = _place(prefix, name, entry)
            if there.get(key) != entry["bytes"]:
                self.put(folder / name, key)
        if not self._is_complete(asset, version, there):
            self.put(folder / MANIFEST, f"{prefix}/{MANIFEST}")

    def fetch(self, asset: str, version: str, into: Path) -> None:
        """Copy an artifact to this machine and verify size and hash of every file.

        Args:
            asset: name of the asset.
            version: version of the artifact.
            into: empty directory.

        Raises:
            ArtifactError: it is not published, or a file is missing or damaged.
        """
        manifest = self.manifest(asset, version)
        place = f"{self.uri}/{asset}/{version}"
        for name, entry in manifest["files"].items():
            file = into / name
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._explained("read"):
                    self._files.get_file(self._key(_place(f"{asset}/{version}", name, entry)), str(file))
            except FileNotFoundError:
                file.unlink(missing_ok=True)
            size = file.stat().st_size if file.is_file() else 0
            if size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise ArtifactError(
                    f"{name} of {place} is missing, truncated or damaged ({size} of {entry['bytes']} bytes); "
                    f"delete {place} and materialize {asset} again"
                )
        (into / MANIFEST).write_bytes(self._raw(asset, version) or b"")

    def manifest(self, asset: str, version: str) -> Mapping[str, Any]:
        """Return the manifest of a published artifact.

        Raises:
            ArtifactError: there is none, or it is damaged or foreign.
        """
        place = f"{self.uri}/{asset}/{version}"
        try:
            return parse_manifest(self._raw(asset, version) or b"", asset, version, place)
        except UNREADABLE as error:
            raise ArtifactError(
                f"{asset} {version} is not a published artifact under {self.uri} ({error}); materialize {asset} again"
            ) from error

    def read(self, key: str) -> bytes | None:
        """Return the content of an object, or None when there is none."""
        try:
            with self._explained("read"):
                return self._files.cat_file(self._key(key))
        except FileNotFoundError:
            return None

    def read_all(self, keys: list[str]) -> dict[str, bytes]:
        """Return the content of several objects; deleted ones are left out."""
        with self._explained("read"):
            found = (
                self._files.cat_ranges([self._key(key) for key in keys], None, None, on_error="return") if keys else []
            )
            for content in found:
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {key: content for key, content in zip(keys, found, strict=True) if isinstance(content, bytes)}

    def names(self, key: str = "") -> list[str]:
        """Return the names directly below a key, both objects and prefixes; empty when there is none."""
        try:
            with self._explained("listed"):
                listed = self._files.ls(self._key(key), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in listed)

    def sizes(self, key: str) -> dict[str, int]:
        """Return the size in bytes of every object below a key."""
        try:
            with self._explained("listed"):
                found = self._below(self._key(key))
        except FileNotFoundError:
            return {}
        return {name.removeprefix(f"{self._base}/"): int(entry["size"]) for name, entry in found.items()}

    def modified_at(self, key: str) -> float | None:
        """Return when an object was written, in seconds since 1970; None if deleted or unknown to the file system."""
        try:
            with self._explained("read"):
                try:
                    moment = self._files.modified(self._key(key))
                except NotImplementedError:
                    return None
        except FileNotFoundError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()

    def remove(self, key: str) -> None:
        """Delete an object, or everything below a key; what is deleted already is fine.

        Raises:
            UnreachableError: it could not be deleted.
        """
        place = self._key(key)
        with contextlib.suppress(FileNotFoundError), self._explained("deleted from"):
            # One by one: when deleting in bulk, s3fs does not report what it could not delete.
            for name in self._files.find(place):
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(name)
            if self._files.isdir(place):  # empty by now, on file systems that have directories
                self._files.rm(place, recursive=True)

    def put(self, file: Path, key: str) -> None:
        """Write a local file as an object, completely or not at all.

        Raises:
            UnreachableError: it could not be written.
        """
        from fsspec.implementations.local import LocalFileSystem

        target = self._key(key)
        with self._explained("written", missing_is_trouble=True):
            if isinstance(self._files, LocalFileSystem):  # readers must not see a file while it is written
                temporary = f"{target}.{os.getpid()}.tmp"
                self._files.put_file(str(file), temporary)
                Path(temporary).replace(target)
            else:
                self._files.put_file(str(file), target)

    def create(self, file: Path, key: str) -> bool:
        """Write a local file as an object, unless there is one: of several writers exactly one succeeds.

        Returns:
            Whether it was written; False when there was an object with other content already, which is not changed.

        Raises:
            UnreachableError: it could not be written.
        """
        from fsspec.implementations.local import LocalFileSystem

        target, content = self._key(key), file.read_bytes()
        with self._explained("written", missing_is_trouble=True):
            if isinstance(self._files, LocalFileSystem):
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                return create_synced(Path(target), content.decode())
            try:
                self._files.pipe_file(target, content, mode="create")
            except Exception:  # each protocol has its own error for an existing object
                if not self._files.exists(target):
                    raise
                return (
                    self.read(key) == content
                )  # an earlier attempt of the client may have succeeded without an answer
        return True

    def _below(self, place: str) -> dict[str, Mapping[str, Any]]:
        """Return the objects below a key; a directory that cannot be listed is an error.

        fsspec's own walk skips such directories, and a gap in the index looks like a version that nobody uses.
        """
        from fsspec import AbstractFileSystem
        from fsspec.asyn import AsyncFileSystem

        flat = type(self._files)._find if self._files.async_impl else type(self._files).find
        if flat not in (AsyncFileSystem._find, AbstractFileSystem.find):  # one request per thousand objects
            return self._files.find(place, detail=True)
        found: dict[str, Mapping[str, Any]] = {}
        waiting = [place]
        while waiting:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                for entry in self._files.ls(waiting.pop(), detail=True):
                    if entry["type"] == "directory" or (entry.get("islink") and self._files.isdir(entry["name"])):
                        waiting.append(entry["name"])
                    else:
                        found[entry["name"]] = entry
        return found

    def _is_complete(self, asset: str, version: str, sizes: Mapping[str, int]) -> bool:
        try:
            manifest = self.manifest(asset, version)
        except UnreachableError:
            raise
        except ArtifactError:
            return False
        prefix = f"{asset}/{version}"
        wanted = file_sizes(manifest)
        return all(sizes.get(_place(prefix, name, entry)) == wanted[name] for name, entry in manifest["files"].items())

    def _raw(self, asset: str, version: str) -> bytes | None:
        return self.read(f"{asset}/{version}/{MANIFEST}")

    def _key(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    @contextlib.contextmanager
    def _explained(self, doing: str, missing_is_trouble: bool = False) -> Iterator[None]:
        """Turn whatever a file system raises into one error; a missing object passes, unless it must exist."""
        try:
            yield
        except DrirlError:
            raise
        except Exception as error:  # each protocol has its own exceptions, from several libraries
            if isinstance(error, FileNotFoundError) and not missing_is_trouble:
                raise
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # this machine's own disk
                raise
            cause = redact_text(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
            raise UnreachableError(
                f"{self.uri} cannot be {doing} ({cause}); check the network, that the bucket exists, and the "
                "credentials (from the environment or the files of its client, never from the settings), then run "
                "again: finished work is kept"
            ) from error


def _place(prefix: str, name: str, entry: Mapping[str, Any]) -> str:
    return f"{prefix}/{str(entry['sha256'])[:_HASH_DIGITS]}/{name}"
