"""How a configuration differs from the file that it started from, in words for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.config.reading import absolute_path
from drirl_core.config.slices import ABSENT
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.redaction import redact

BASE = "base"
"""Key of the section that is filled in when a file is read."""
_PLACES = ("name", "root", "mirror", "models.cache", BASE)
"""What a difference is not about: the name is shown as such, and places decide no result."""


@dataclass(frozen=True)
class DifferenceConfig:
    """One setting that differs from the base file."""

    setting: str
    """Dotted name; a row of a list is named by its `name`."""
    before: str
    """Value in the base file."""
    now: str
    """Current value."""

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.setting}: {self.before} -> {self.now}"


@dataclass(frozen=True)
class BaseConfig:
    """What a configuration started from. It decides no result and no equality of configurations."""

    file: str = ""
    """The file that the run's file extends, or the run's file itself."""
    differences: tuple[DifferenceConfig, ...] = ()
    """Settings of the run that differ from it."""


def base_file(path: Path) -> Path:
    """Return the file that a readable configuration file extends directly; the file itself when it extends none."""
    extended = read_yaml(path, "config file").get("extends")
    return Path(absolute_path(extended, path.parent, path.resolve().parent) if extended else path).resolve()


def differences_from(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[DifferenceConfig]:
    """List the settings that differ between two configurations.

    Args:
        before: the earlier one as plain data.
        now: the current one as plain data.

    Returns:
        The differences in the order of the settings, with secrets hidden; names and places are left out.
    """
    return [
        DifferenceConfig(setting, _text(setting, old), _text(setting, new))
        for name in {**before, **now}
        for setting, old, new in differences(before.get(name, ABSENT), now.get(name, ABSENT), name)
        if setting not in _PLACES and not setting.startswith(f"{BASE}.")
    ]


def differences(before: Any, now: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Walk two values side by side and yield dotted name, old value and new value of each leaf that differs.

    Args:
        before: plain data.
        now: plain data.
        where: dotted name of both; rows of a list that have a `name` are identified by it.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from differences(before.get(key, ABSENT), now.get(key, ABSENT), f"{where}.{key}")
    elif _named(before) and _named(now):
        rows_before, rows_now = ({row["name"]: row for row in rows} for rows in (before, now))
        for name in {**rows_before, **rows_now}:
            yield from differences(rows_before.get(name, ABSENT), rows_now.get(name, ABSENT), f"{where}[{name}]")
    elif before != now:
        yield where, before, now


def _named(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(isinstance(row, Mapping) and "name" in row for row in rows)


def _text(setting: str, value: Any) -> str:
    key = setting.rpartition(".")[2]
    shown = redact({key: value})[key]
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
