"""Write the folder of a policy: complete or not at all.

It holds the merged weights with the tokenizer and its chat template, the adapter by itself, a model card with the
measured figures, the licence, on request a GGUF file, and `drirl.json`: versions and a hash of every file.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core import __version__
from drirl_core.errors import ArtifactError
from drirl_core.export.adapter import why_none, write_joined
from drirl_core.export.card import card
from drirl_core.export.gguf_file import require_family, write_gguf
from drirl_core.export.licences import LICENCE, NOTICE, Licence, write_licence
from drirl_core.export.material import Material, weights_of
from drirl_core.models.model_files import require_sound_files
from drirl_core.models.naming import base_model
from drirl_core.policy.adapter_files import FOLDER as ADAPTER
from drirl_core.reporting import Reporter
from drirl_core.store.disk import disk_errors_explained, existing, sha256, sync, write_synced

RECORD, CARD = "drirl.json", "README.md"
"""What an export is recognised by, and its model card."""
_SPARE = 1 << 26
_SIZES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Bytes per weight."""


@dataclass(frozen=True)
class Wanted:
    """What an export holds beyond the weights, and how it may be written.

    Args:
        gguf: number types of GGUF files.
        replace: whether an earlier export at the same place is replaced.
        reason: why it is published although gates fail, for the card.
    """

    gguf: tuple[str, ...] = ()
    replace: bool = False
    reason: str = ""


def export(material: Material, target: Path, licence: Licence, wanted: Wanted, reporter: Reporter) -> Path:
    """Write the folder of a policy beside its place, then rename it.

    Args:
        material: the policy and what it was made from.
        target: the folder to make.
        licence: of the weights.
        wanted: what else it holds.
        reporter: gets progress.

    Returns:
        `target`.

    Raises:
        ArtifactError: something is there already, the disk is full or read-only, or an artifact is damaged.
        ModelError: a GGUF file of this policy cannot be written.
    """
    target = target.expanduser().absolute()
    require_free(target, wanted.replace)
    if wanted.gguf:
        require_family(material.checkpoint.path)
    _require_space(material, target, wanted.gguf)
    beside = target.with_name(f".{target.name}.{os.getpid()}-{time.time_ns()}")
    with disk_errors_explained(target, "name with --to another"):
        beside.mkdir(parents=True)
        try:
            _fill(material, beside, licence, wanted, reporter)
            _publish(beside, target, wanted.replace)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return target


def require_free(target: Path, replace: bool) -> None:
    """Refuse a place where something is that an export may not replace.

    Args:
        target: the folder to make.
        replace: whether an earlier export may be replaced.

    Raises:
        ArtifactError: a file or folder is there.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not (target / RECORD).is_file() or target.is_symlink():
        raise ArtifactError(f"{target} is there and was not made by an export; give another place with --to")
    if not replace:
        raise ArtifactError(f"{target} is there already; replace it with --force, or give another place with --to")


def _require_space(material: Material, target: Path, gguf: Sequence[str]) -> None:
    """Refuse to begin where the disk has less room than the folder needs."""
    copied = sum(file.stat().st_size for file in weights_of(material.checkpoint.path))
    weights = _weights(material.checkpoint.path)
    needed = copied + sum(int(weights * _SIZES[kind]) for kind in gguf) + _SPARE
    free = shutil.disk_usage(existing(target)).free
    if free < needed:
        raise ArtifactError(
            f"{target} needs {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free; free some space, or "
            "give another place with --to"
        )


def _weights(folder: Path) -> int:
    """Return the number of weights of a policy, from the headers of its files."""
    from safetensors import safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                size = 1
                for length in opened.get_slice(name).get_shape():
                    size *= length
                count += size
    return count


def _fill(material: Material, folder: Path, licence: Licence, wanted: Wanted, reporter: Reporter) -> None:
    source, config = material.checkpoint.path, material.config
    reporter.log(f"export: copying {material.checkpoint.asset} {material.checkpoint.version}")
    for file in weights_of(source):
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
    base, terms = base_model(config.models.policy)
    trained = [found.path for found in material.trained]
    no_adapter = why_none(trained)
    if no_adapter is None:
        write_joined(trained, folder / ADAPTER, base)
    said = {"name": config.name, "license": terms, "base": base}
    for kind in wanted.gguf:
        reporter.log(f"export: writing GGUF, {kind}")
        write_gguf(source, folder / f"{material.slug}-{kind}.gguf", kind, said)
    write_licence(folder, config, licence, _sources(material))
    text = card(material, licence, _meanings(folder), no_adapter, wanted.reason)
    (folder / CARD).write_text(text, encoding="utf-8")
    _record(material, folder, wanted)
    require_sound_files(folder, str(folder))


def _record(material: Material, folder: Path, wanted: Wanted) -> None:
    """Write what the folder is made of, and a hash of every file, after which it is on the disk."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    record: dict[str, Any] = {
        "drirl": __version__,
        "configuration": material.config.name,
        "policy": material.policy,
        "versions": material.versions,
        "gates": [gate.row() for gate in material.gates],
        "reason": wanted.reason,
        "files": {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files
        },
    }
    for file in files:
        sync(file)
    write_synced(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _publish(beside: Path, target: Path, replace: bool) -> None:
    """Rename the finished folder to its place; an earlier export goes when the new one is there."""
    require_free(target, replace)  # while it was written another process may have made one
    former = beside.with_name(f"{beside.name}.former")
    if target.is_dir() and (target / RECORD).is_file():
        target.rename(former)
    try:
        beside.rename(target)
    except OSError:
        if former.is_dir():
            former.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def _sources(material: Material) -> list[tuple[str, str]]:
    """Return name and licence of each source of the rows that were trained on."""
    from drirl_core.store.tables import read_table

    found: set[tuple[str, str]] = set()
    for dataset in material.datasets.values():
        for row in read_table(dataset.path / "rows.parquet", ("split", "source", "licence")):
            if row["split"] == "train":
                found.add((row["source"], row["licence"]))
    return sorted(found)


def _meanings(folder: Path) -> list[tuple[str, str]]:
    """Return name and meaning of the files of a folder, for the card that is still to be written."""
    gguf = [
        (file.name, f"the same weights for llama.cpp, {file.stem.rpartition('-')[2]}")
        for file in sorted(folder.glob("*.gguf"))
    ]
    adapter = [(f"{ADAPTER}/", "the adapter by itself, for PEFT")] if (folder / ADAPTER).is_dir() else []
    texts = [
        (
            file.name,
            "licence of the base model, which holds for these weights"
            if file.name == LICENCE
            else "terms of the base model",
        )
        for file in sorted(folder.iterdir())
        if file.name.startswith(("LICEN", "USE_POLICY"))
    ]
    return [
        ("*.safetensors", "the weights, adapter merged in"),
        ("tokenizer.json, chat_template.jinja", "the tokenizer and the chat template that the policy was trained with"),
        *adapter,
        *gguf,
        *texts,
        (NOTICE, "where weights and training data come from, and their licences"),
        (RECORD, "versions of the artifacts, gates, and a SHA-256 of every file"),
    ]
