"""The declarations of `suites.yaml` as they stand there, for whoever must not load what reads the suites themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.config.reading import EMBEDDED, read_shipped

FILE = Path(__file__).with_name("suites.yaml")
DATA = Path(__file__).parents[1] / "data"

SHIPPED = {"embedded": DATA / "heldout", "twins": DATA / "heldout_twins"}
"""Folder of each suite that comes with the package; nothing is ever trained on their rows."""


@functools.cache
def declarations() -> Mapping[str, Mapping[str, Any]]:
    """Return the record of every declared suite by its name."""
    return read_shipped(FILE)


def suite_folder(name: str, path: str) -> Path:
    """Return where the rows of a suite lie.

    Args:
        name: of the suite.
        path: its setting `path`; `embedded` means the rows that come with the package.

    Returns:
        A file or directory. For `embedded` and a suite that does not come with the package, the folder of the suite
        `embedded`: reading it then says that the suite is not shipped.
    """
    return SHIPPED.get(name, SHIPPED[EMBEDDED]) if path == EMBEDDED else Path(path)
