"""The help of every setting: the string under its field in the configuration classes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from drirl_core import config as configuration


@cache
def field_help() -> Mapping[tuple[str, str], str]:
    """Return the string literal under each dataclass field of `drirl_core.config`, by class and field name."""
    found: dict[tuple[str, str], str] = {}
    modules = (
        importlib.import_module(f"{configuration.__name__}.{part.name}")
        for part in pkgutil.iter_modules(configuration.__path__)
    )
    sources = (inspect.getsource(module) for module in (configuration, *modules))
    for node in (node for source in sources for node in ast.parse(source).body):
        if not isinstance(node, ast.ClassDef):
            continue
        for statement, following in zip(node.body, node.body[1:], strict=False):
            is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            if is_field and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[node.name, statement.target.id] = " ".join(str(following.value.value).split())
    return found


@dataclass(frozen=True)
class Setting:
    """One setting of a section.

    Args:
        name: as YAML has it.
        kind: what it takes, in words.
        default: its default; `dataclasses.MISSING` where it must be given.
        help: what it does.
        rows: class of its rows, where it is a list of sections.
        section: its own class, where it is a section.
    """

    name: str
    kind: str
    default: Any
    help: str
    rows: type | None = None
    section: type | None = None


def settings_of(cls: type) -> Iterator[Setting]:
    """Yield the settings of a section, in order.

    Args:
        cls: a class of the configuration.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = _without_none(hints[field.name])
        inner = next((part for part in typing.get_args(hint) if dataclasses.is_dataclass(part)), None)
        yield Setting(
            field.name,
            _in_words(hints[field.name]),
            field.default_factory() if callable(field.default_factory) and not _is_section(hint) else field.default,
            field_help().get((cls.__name__, field.name), ""),
            rows=inner,
            section=hint if _is_section(hint) else None,
        )


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "value"}


def _in_words(hint: Any) -> str:
    """Say in words what a setting takes."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return f"{_in_words(_without_none(hint))}, or null"
    if origin is Literal:
        return f"one of {', '.join(f'`{part}`' for part in parts)}"
    if origin is tuple and typing.get_origin(parts[0]) is Literal:
        return f"list, each {_in_words(parts[0])}"
    if origin is tuple:
        return "list of sections" if _is_section(parts[0]) else f"list of {_in_words(parts[0])}s"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names with a {_in_words(parts[1])} each"
    return "section" if _is_section(hint) else _WORDS[hint]
