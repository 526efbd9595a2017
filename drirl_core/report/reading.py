"""Read what the upstream artifacts hold; a missing table is an error that names the artifact to rebuild."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.errors import ArtifactError, DataError
from drirl_core.store.artifacts import MANIFEST, ArtifactStore
from drirl_core.store.tables import read_table


def read_json(folder: Path, name: str, asset: str) -> dict[str, Any]:
    """Read a JSON object of an artifact.

    Args:
        folder: the artifact's directory.
        name: the file in it.
        asset: name of the asset, for the message.

    Raises:
        ArtifactError: the file is missing or is not a JSON object.
    """
    path = folder / name
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); materialize {asset} again") from error
    if not isinstance(loaded, dict):
        raise ArtifactError(
            f"{path} holds {type(loaded).__name__} instead of keys and values; materialize {asset} again"
        )
    return loaded


def read_lines(folder: Path, name: str, asset: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines of an artifact.

    Raises:
        ArtifactError: the file is missing, empty or not JSON lines.
    """
    path = folder / name
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); materialize {asset} again") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ArtifactError(f"{path} holds no rows; materialize {asset} again")
    return rows


def read_rows(folder: Path, name: str, columns: Sequence[str], asset: str) -> list[dict[str, Any]]:
    """Read a parquet table of an artifact.

    Raises:
        ArtifactError: the table is missing, damaged or lacks a column.
    """
    try:
        return read_table(folder / name, columns)
    except DataError as error:
        raise ArtifactError(f"{error}; materialize {asset} again") from error


def manifests(inputs: Mapping[str, Path], store: ArtifactStore) -> dict[str, Mapping[str, Any]]:
    """Return the manifests of the inputs and of everything they were made from.

    Args:
        inputs: directory of each input artifact.
        store: where the artifacts further up are looked for; those that are gone are left out.

    Returns:
        Manifest by asset name. A directory without one (made by hand) is left out.
    """
    found: dict[str, Mapping[str, Any]] = {}
    waiting = [_manifest(path) for path in inputs.values()]
    while waiting:
        manifest = waiting.pop()
        if manifest is None or manifest["asset"] in found:
            continue
        found[manifest["asset"]] = manifest
        waiting += [store.manifest(name, version) for name, version in manifest.get("inputs", {}).items()]
    return found


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    try:
        loaded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) and "asset" in loaded else None
