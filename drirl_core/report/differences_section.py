"""How the configuration of a run differs from the demo's, which is the one that documents describe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drirl_core
from drirl_core.config import Config, load_config, resolved
from drirl_core.config.slices import ABSENT
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.errors import ConfigError
from drirl_core.graph.reasons import differences, hidden

DEMO = Path(drirl_core.__file__).parents[1] / "configs" / "demo.yaml"
"""The demo's file in a checkout; an installed package does not have it."""

_PLACES = ("root", "mirror", "name", "models.cache", "models.device", "models.threads")
"""Settings that say where a run is and what it is called, not what it does."""
_FILLED_IN = "base"
"""A section that a configuration fills in about itself has nothing that a user set."""
_LONGEST = 160


def differences_section(config: Config, demo: Path = DEMO) -> dict[str, Any]:
    """Return the settings that differ from the demo's.

    Args:
        config: the configuration of the run.
        demo: the demo's file.

    Returns:
        `text`, and `rows` of dotted name, the demo's value and this run's.
    """
    known, base = _base(config, demo)
    rows = changed_settings(base, config)
    whom = "the demo (configs/demo.yaml)" if known else "the defaults, because configs/demo.yaml is not on this machine"
    if not rows:
        return {"text": f"No setting differs from {whom}.", "rows": []}
    many = "1 setting differs" if len(rows) == 1 else f"{len(rows)} settings differ"
    return {"text": f"{many} from {whom}; the value here stands after the arrow.", "rows": rows}


def changed_settings(before: Config, now: Config) -> list[tuple[str, str, str]]:
    """Return dotted name, earlier and current value of each setting that differs, as texts without secrets.

    Args:
        before: the configuration to compare with.
        now: the configuration of the run.
    """
    old, new = resolved(before), resolved(now)
    sections = [section for section in new if section != _FILLED_IN]
    found = [row for section in sections for row in differences(old[section], new[section], section)]
    return [
        (name, *(_written(hidden(name, value)) for value in values)) for name, *values in found if name not in _PLACES
    ]  # type: ignore[misc]


def _base(config: Config, demo: Path) -> tuple[bool, Config]:
    try:
        return True, load_config(demo)
    except ConfigError:
        return False, Config(models=config.models)


def _written(value: Any) -> str:
    """Write a value as YAML on one line."""
    if value == ABSENT:
        return "not there"
    if value is None:
        return "none"
    plain = _plain(value)
    text = plain if isinstance(plain, str) else dump_yaml(plain, default_flow_style=True, width=10**6)
    line = " ".join(text.removesuffix("\n").removesuffix("\n...").split()) or "empty"
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()} ..."


def _plain(value: Any) -> Any:
    """Leave out what is empty and the directories of files; of rows that have names, only those stay."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item not in (None, "", {}, [])}
    if isinstance(value, list):
        named = value and all(isinstance(row, Mapping) and "name" in row for row in value)
        return [row["name"] for row in value] if named else [_plain(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith("path:"):
        return f"path:{Path(value.removeprefix('path:')).name}"
    return Path(value).name if value.startswith("/") else value
