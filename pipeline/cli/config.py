"""`drirl config`: print the resolved settings, or a YAML template with the help text of every setting."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from drirl_core import config as configuration
from drirl_core.config import Config
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.redaction import redact


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


def plain_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML, with secrets hidden."""
    return dump_yaml(redact(configuration.resolved(config)), width=100)


def explained_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML with a comment above each setting that explains it.

    The text is a valid configuration file.
    """
    values = redact(configuration.resolved(config))
    return "\n".join(_explain(type(config), values, 0)) + "\n"


def _explain(kind: type, values: Mapping[str, Any], depth: int) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        value = values[field.name]
        indent = "  " * depth
        section = dataclasses.is_dataclass(hints[field.name])
        if depth == 0 and section:
            yield ""
        comment = " ".join(
            filter(None, (field_help().get((kind.__name__, field.name), ""), _choices(hints[field.name])))
        )
        for line in textwrap.wrap(comment, max(40, 110 - len(indent))):
            yield f"{indent}# {line}"
        if section:
            yield f"{indent}{field.name}:"
            yield from _explain(hints[field.name], value, depth + 1)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{indent}{field.name}:"
            yield from _explain_list(hints[field.name], value, depth + 1)
        else:
            dumped = dump_yaml(value, default_flow_style=True, width=10_000)
            yield f"{indent}{field.name}: {dumped.removesuffix('...' + chr(10)).rstrip()}"


def _explain_list(kind: Any, items: list[Mapping[str, Any]], depth: int) -> Iterator[str]:
    """Explain the first row of a list of sections; the rows after it have the same fields."""
    indent = "  " * depth
    row = typing.get_args(kind)[0]
    for number, item in enumerate(items):
        if number == 0:
            lines = list(_explain(row, item, 0))
        else:
            lines = dump_yaml(dict(item), width=10_000).rstrip().splitlines()
        yield f"{indent}-"
        yield from (f"{indent}  {line}" for line in lines)


def _choices(kind: Any) -> str:
    return f"One of: {', '.join(map(str, typing.get_args(kind)))}." if typing.get_origin(kind) is Literal else ""
