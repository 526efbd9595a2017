"""The files of a model directory: all there, not truncated, and what they claim to be. No weights are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drirl_core.errors import ModelError
from drirl_core.models.digests import deciding_files

_POINTER = b"version https://git-lfs"
"""How a file begins that stands for a large one in a git repository."""
_POINTER_BYTES = 1024
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


def require_sound_files(folder: Path, reference: str) -> Path:
    """Check the files of a model directory.

    Args:
        folder: the directory.
        reference: of the model, for messages.

    Returns:
        `folder`.

    Raises:
        ModelError: it is no model directory; weights are missing, truncated or only pointers to large files; or there
            are only pickles.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{reference}: {folder} is not a directory; give the directory that holds config.json and *.safetensors"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{reference}: {folder} has no config.json, so it is not a model directory")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not list(folder.glob("*.safetensors.index.json")):
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
        why = f" ({', '.join(pickles)} would be unpickled, which is never done)" if pickles else ""
        raise ModelError(f"{reference}: no *.safetensors in {folder}{why}; convert the weights with save_pretrained()")
    _refuse_pointers(folder, reference)
    tensors = {file.name: set(_header(file, reference)) for file in weights}
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _require_shards(index, tensors, reference)
    _require_counted(folder, tensors, reference)
    return folder


def _refuse_pointers(folder: Path, reference: str) -> None:
    """Refuse files that only name a large file, as a git repository cloned without git-lfs has them."""
    small = [file for file in deciding_files(folder) if file.stat().st_size <= _POINTER_BYTES]
    for file in small:
        with file.open("rb") as opened:
            pointer = opened.read(len(_POINTER)) == _POINTER
        if pointer:
            what = "a safetensors file" if file.suffix == ".safetensors" else "the file itself"
            raise ModelError(
                f"{reference}: {file} is not {what} but a pointer to it, because the repository was cloned without Git "
                f"LFS; run `git lfs install` and `git lfs pull` in {folder}, or fetch it again"
            )


def _require_shards(index: Path, tensors: Mapping[str, set[str]], reference: str) -> None:
    """Compare an index with the files it names, and with what their headers hold."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(name): str(file) for name, file in named.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{reference}: {index} is damaged ({error}); fetch it again") from error
    missing = sorted(set(wanted.values()) - set(tensors))
    if missing:
        raise ModelError(
            f"{reference}: {index.name} names {', '.join(missing)}, but {index.parent} does not hold "
            f"{'it' if len(missing) == 1 else 'them'}; the model is incomplete: fetch it again"
        )
    lost = [name for name, file in wanted.items() if name not in tensors[file]]
    if lost:
        raise ModelError(
            f"{reference}: {wanted[lost[0]]} does not hold {lost[0]} ({len(lost)} such weights), although {index.name} "
            "says so; the files are not of one model: fetch it again"
        )


def _require_counted(folder: Path, tensors: Mapping[str, set[str]], reference: str) -> None:
    """Refuse numbered parts of which some are missing, or that no index ties together."""
    for stem, parts in _numbered(tensors):
        count, have = parts
        lacking = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        lacking = [name for name in lacking if name not in have]
        if lacking and not (folder / f"{stem}.safetensors").is_file():
            raise ModelError(
                f"{reference}: {folder} does not hold {', '.join(lacking)}; the model is incomplete: fetch it again"
            )
        if not (folder / f"{stem}.safetensors").is_file() and not list(folder.glob("*.safetensors.index.json")):
            raise ModelError(
                f"{reference}: {folder} has the {count} parts of {stem}.safetensors, but not "
                f"{stem}.safetensors.index.json, which says what is where; fetch it too"
            )


def _numbered(names: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, set[str]]]]:
    """Yield stem, number of parts and the parts that are there, of each set of numbered files."""
    found: dict[tuple[str, int], set[str]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            found.setdefault((match["stem"], int(match["count"])), set()).add(name)
    for (stem, count), have in found.items():
        yield stem, (count, have)


def _header(file: Path, reference: str) -> dict[str, Any]:
    """Return the tensors that a safetensors file names, after a comparison of its length with that of the file."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length <= 0 or length > size:
            raise ModelError(f"{reference}: {file} is not a safetensors file ({size} bytes); fetch it again")
        try:
            header = json.loads(handle.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{reference}: {file} has a damaged header ({error}); fetch it again") from error
    if size != 8 + length + end:
        raise ModelError(
            f"{reference}: {file} is truncated: {size} bytes, {8 + length + end} expected; fetch or train it again"
        )
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
