"""The declarations of `suites.yaml` as they stand there, for whoever must not load what reads the suites themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.config.reading import read_shipped

FILE = Path(__file__).with_name("suites.yaml")


@functools.cache
def declarations() -> Mapping[str, Mapping[str, Any]]:
    """Return the record of every declared suite by its name."""
    return read_shipped(FILE)
