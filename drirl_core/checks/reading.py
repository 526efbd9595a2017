"""Read the small files of an artifact that is judged."""

import json
from pathlib import Path
from typing import Any

from drirl_core.errors import DataError


def read_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """Read a table of an artifact.

    Raises:
        DataError: it is missing or damaged.
    """
    from drirl_core.store.tables import read_table  # brings pyarrow

    return read_table(path / name)


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of an artifact.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or holds something else than an object.
    """
    loaded = json.loads((path / name).read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise DataError(f"{path / name} must hold an object, not {type(loaded).__name__}")
    return loaded
