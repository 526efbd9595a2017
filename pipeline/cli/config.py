"""`drirl config`: print the resolved settings, or a YAML template with the help text of every setting."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from drirl_core import config as configuration
from drirl_core.config import Config
from drirl_core.config.base import BASE
from drirl_core.config.explain import field_help
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.redaction import redact


def plain_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML, with secrets hidden."""
    return dump_yaml(_settings(config), width=100)


def explained_yaml(config: Config) -> str:
    """Write a resolved configuration as YAML with a comment above each setting that explains it.

    The text is a valid configuration file.
    """
    values = _settings(config)
    return "\n".join(_explain(type(config), values, 0)) + "\n"


def _settings(config: Config) -> dict[str, Any]:
    """Return what a file can set, with secrets hidden."""
    return {name: value for name, value in redact(configuration.resolved(config)).items() if name != BASE}


def _explain(kind: type, values: Mapping[str, Any], depth: int) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in (field for field in dataclasses.fields(kind) if field.name in values):
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
