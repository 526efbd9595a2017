"""From YAML to frozen dataclasses: `extends`, paths, and every value converted or refused with its place."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from drirl_core.config.strict_yaml import read_yaml
from drirl_core.errors import ConfigError, nearest

EMBEDDED = "embedded"
"""Value of a `path` that means the data shipped in `drirl_core/data`."""
TAXONOMY_KEY = "taxonomy"
PATH_KEYS = ("path", TAXONOMY_KEY, "folder", "safety_policy")
"""Settings that hold a path."""
FUNCTIONS_KEY = "own_rewards"
"""Setting whose rows have the folder of the file itself where they name none."""
PATH_LIST_KEYS = ("labels",)
"""Settings that hold a list of paths."""
PLACE_KEYS = ("root", "mirror", "cache")
"""Settings that hold a directory whose relative form starts elsewhere than at the file that names it."""
MODEL_KEYS = ("policy", "encoder", "model")
"""Settings that hold a reference of a model, which may be `path:` and a directory."""

_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")

ADDED = "added"
"""Key in the metadata of a field that was added when there were artifacts without it."""


def added(default: Any) -> Any:
    """Declare a setting that is newer than artifacts users have; at its default it changes no version.

    Args:
        default: the value with which the code does what it did before the setting existed.
    """
    if isinstance(default, dict):  # each configuration gets a mapping of its own
        return dataclasses.field(default_factory=lambda: dict(default), metadata={ADDED: True})
    return dataclasses.field(default=default, metadata={ADDED: True})


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError` with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def expanded(path: str) -> str:
    """Return a path whose `~` or `~user` at the beginning is replaced by that home directory.

    A shell does the same, but not after `=`, in quotes or in a file.

    Raises:
        ConfigError: there is no such user, or the path begins with a variable such as `$HOME`, which is not replaced.
    """
    require(
        not _VARIABLE.match(path),
        f"the path {path!r} begins with a variable, and variables are not replaced here; write the path itself, or ~ "
        "for your home directory",
    )
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(
            f"the path {path!r} begins with ~, but that user has no home directory here; write the complete path, or "
            f"./{path} for a file of that name"
        ) from error


def read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file and those it extends, merged.

    Raises:
        ConfigError: a file is missing, not YAML, holds what YAML readers understand differently, or extends itself.
    """
    path = path.absolute()
    require(path.resolve() not in seen, f"config {path}: `extends` goes round in a circle")
    if not path.exists():
        known = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else "none"
        raise ConfigError(f"config file {path} does not exist; files there: {known or 'none'}")
    loaded = read_yaml(path, "config file")
    require(isinstance(loaded, dict), f"config file {path} must hold keys and values, not {type(loaded).__name__}")
    anchor_paths(loaded, path.parent, path.resolve().parent)
    base = loaded.pop("extends", None)
    require(
        base is None or isinstance(base, str), f"config file {path}: extends is {base!r}; give the name of one file"
    )
    if not base:
        return loaded
    folders = (path.parent, path.resolve().parent)
    return _merge(read(Path(absolute_path(base, *folders)), (*seen, path.resolve())), loaded)


def anchor_paths(node: Any, *folders: Path) -> None:
    """Make file paths absolute where they are read, so that a config works from any directory.

    Args:
        node: plain data, changed in place.
        folders: where relative paths start: the first in which the file is, else the first. A file of settings that is
            a link has two, where it was named and where it is.

    Raises:
        ConfigError: a path begins with a variable or the name of an unknown user.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == FUNCTIONS_KEY and isinstance(value, list):  # looked for beside the file, unless it says where
                for row in value:
                    if isinstance(row, dict):
                        row.setdefault("folder", ".")
            if key in PATH_KEYS and isinstance(value, str) and value not in ("", EMBEDDED):
                node[key] = absolute_path(value, *folders)
            elif key in PATH_LIST_KEYS and isinstance(value, list):
                node[key] = [
                    absolute_path(item, *folders) if isinstance(item, str) and item else item for item in value
                ]
            elif key in MODEL_KEYS and isinstance(value, str) and value.startswith("path:"):
                node[key] = f"path:{absolute_path(value.removeprefix('path:'), *folders)}"
            elif key in PLACE_KEYS and isinstance(value, str):
                node[key] = expanded(value)
            else:
                anchor_paths(value, *folders)
    elif isinstance(node, list):
        for item in node:
            anchor_paths(item, *folders)


def absolute_path(value: str, *folders: Path) -> str:
    """Return an absolute path that keeps the names the user wrote.

    Links are not followed: the name says how a file is read, and what stores keep behind links (the hub's cache, DVC,
    Kubernetes) has other names, which may change.

    Args:
        value: a path, which may begin with `~`.
        folders: as for `anchor_paths`.

    Raises:
        ConfigError: it begins with a variable or the name of an unknown user.
    """
    places = [folder.absolute() / expanded(value) for folder in folders]
    place = str(next((place for place in places if os.path.exists(place)), places[0]))
    without_dots = os.path.normpath(place)
    # `..` after a link leads to the parent of what it points to, which is elsewhere.
    return without_dots if os.path.realpath(without_dots) == os.path.realpath(place) else place


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def build(cls: type, data: Mapping[str, Any], where: str = "") -> Any:
    """Build a dataclass from plain data.

    Args:
        cls: a dataclass.
        data: its values; those left out take their defaults.
        where: dotted place of the data, for messages.

    Raises:
        ConfigError: a key is unknown, a value is missing or has the wrong type.
    """
    require(isinstance(data, Mapping), f"{where or 'the config'}: expected keys and values, got {data!r}")
    hints = typing.get_type_hints(cls)
    for key in data:
        require(key in hints, f"unknown key {_dotted(where, str(key))!r}; {nearest(str(key), hints)}")
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    require(not missing, f"missing {', '.join(_dotted(where, name) for name in missing)}; there is no default for it")
    return cls(**{key: _convert(hints[key], value, _dotted(where, key)) for key, value in data.items()})


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return _plain(value, where)
    if dataclasses.is_dataclass(kind):
        return build(typing.cast("type", kind), value, where)
    if origin is Literal:
        require(value in args, f"{where} is {value!r}; choose one of {', '.join(map(str, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{where} is {value!r}; give a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        require(isinstance(value, Mapping), f"{where} is {value!r}; give keys and values")
        return {str(key): _convert(args[1], item, _dotted(where, str(key))) for key, item in value.items()}
    return _scalar(kind, value, where)


def _plain(value: Any, where: str) -> Any:
    """Return a value whose type is known elsewhere: a copy of plain data that JSON and YAML can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, _dotted(where, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if value is None or isinstance(value, str):
        return value
    require(isinstance(value, bool | int | float), f"{where} is {value!r}; give a number, a text, a list or a mapping")
    require(math.isfinite(value), f"{where} is {value}; give a finite number")
    return value


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 5e-4 as a string
        except ValueError as error:
            raise ConfigError(f"{where} is {value!r}; give a number") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    require(right, f"{where} is {value!r} ({type(value).__name__}); give {_KINDS[kind]}")
    if kind is float:
        require(value == value and abs(value) != float("inf"), f"{where} is {value}; give a finite number")
    return value
