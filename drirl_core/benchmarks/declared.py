"""The declarations of `suites.yaml` as they stand there, for whoever must not load what reads the suites themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("suites.yaml")
# The parser in C where there is one: each start of the code location reads the file, and this takes a tenth of the time.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def declarations() -> Mapping[str, Mapping[str, Any]]:
    """Return the record of every declared suite by its name."""
    return yaml.load(FILE.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - safe, both of them
