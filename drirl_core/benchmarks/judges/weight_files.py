"""The files of the embedded judge's weights, and their digest; light to import, as versions are compared often."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drirl_core.config import Config

WEIGHTS, RECORD = "embedded.safetensors", "embedded.json"


def digest(folder: Path) -> str:
    """Hash the files of weights, by content; what is missing counts as such."""
    files = [folder / name for name in (WEIGHTS, RECORD)]
    content = [file.read_bytes() if file.is_file() else b"missing" for file in files]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def weights_of(config: Config) -> dict[str, str]:
    """Return the digest of the embedded judge's weights, under a name for people; none where it does not judge."""
    settings = config.benchmarks
    if "embedded" not in (settings.judge, settings.second_judge):
        return {}
    return {"weights of the embedded judge": digest(Path(settings.embedded.folder))}
