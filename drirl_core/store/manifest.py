"""The manifest inside an artifact: it names the files, and readers check them against it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.errors import ArtifactError
from drirl_core.store.disk import sha256

MANIFEST = "manifest.json"
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""Errors of reading a manifest or index that is not JSON, not UTF-8 or of another shape."""

VERSION_DIGITS = 16


def describe(
    asset: str, fingerprint: str, folder: Path, details: Mapping[str, Any], volatile: frozenset[str]
) -> dict[str, Any]:
    """Hash the files of a finished build into the manifest of its artifact.

    Args:
        asset: name of the asset.
        fingerprint: hash of inputs, code and configuration.
        folder: directory with the files.
        details: further entries.
        volatile: files that do not enter the version, which covers the fingerprint instead.

    Raises:
        ArtifactError: there is no file.
    """
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
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
    return {
        "asset": asset,
        "version": digest.hexdigest()[:VERSION_DIGITS],
        "fingerprint": fingerprint,
        "created_at": time.time(),
        "files": files,
        **details,
    }


def parse_manifest(text: str | bytes, asset: str, version: str, place: object) -> Mapping[str, Any]:
    """Read a manifest and check that it describes the expected artifact.

    Args:
        text: JSON.
        asset: name of the asset.
        version: version of the artifact.
        place: where the artifact is stored, for the message.

    Returns:
        The manifest; its `files` maps each name to at least `bytes` and `sha256`.

    Raises:
        ArtifactError: it describes another artifact, or names files outside its directory.
        ValueError: or another of `UNREADABLE`: it is not a manifest.
    """
    manifest = json.loads(text)
    names = file_sizes(manifest)
    if manifest["asset"] != asset or manifest["version"] != version:
        raise ArtifactError(
            f"{place} is a foreign artifact: its manifest names {manifest['asset']} {manifest['version']}"
        )
    outside = [name for name in names if name.startswith("/") or ".." in name.split("/")]
    if outside:
        raise ArtifactError(f"{place} is a foreign artifact: its manifest names {outside[0]}, which is outside of it")
    return manifest


def artifacts_among(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return those inputs of an artifact that are artifacts; the others are source files outside of the store."""
    return {name: version for name, version in inputs.items() if not name.startswith("source_")}


def file_sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the size in bytes of each file a manifest names."""
    return {str(name): int(entry["bytes"]) for name, entry in manifest["files"].items()}


def read_complete(root: Path, asset: str, version: str) -> Mapping[str, Any]:
    """Return the manifest of an artifact on this machine, after checking that all its files are there.

    Args:
        root: directory of the store.
        asset: name of the asset.
        version: version of the artifact.

    Raises:
        ArtifactError: it does not exist, has no manifest, or a file is missing or has another size.
    """
    path = root / asset / version
    try:
        manifest = parse_manifest((path / MANIFEST).read_text(encoding="utf-8"), asset, version, path)
    except (OSError, *UNREADABLE) as error:
        raise ArtifactError(
            f"{asset} {version} is not a published artifact under {root} ({error}); materialize {asset} again"
        ) from error
    for name, size in file_sizes(manifest).items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise ArtifactError(
                f"{file} is missing or truncated ({size} bytes expected); delete {path} and materialize {asset} again"
            )
    return manifest
