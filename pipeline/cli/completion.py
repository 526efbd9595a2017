"""What the shell offers for the values of options: assets, settings, categories, suites, and names of results."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import click

from drirl_core.errors import DrirlError


def assets(ctx: click.Context, incomplete: str) -> list[str]:
    """Offer the assets of the configuration on the command line, and `stale`."""
    return _starting(incomplete, lambda: ["stale", *_project(ctx).graph.nodes])


def categories(ctx: click.Context, incomplete: str) -> list[str]:
    """Offer the categories of the configuration on the command line."""
    from drirl_core.taxonomy import HELPFUL

    return _starting(incomplete, lambda: [*_project(ctx).graph.categories, HELPFUL])


def results(ctx: click.Context, incomplete: str) -> list[str]:
    """Offer the results that were recorded in the store of the configuration on the command line."""
    from drirl_core.runs.record import Results

    return _starting(incomplete, lambda: [entry.label for entry in Results(_project(ctx).store).present()])


def suites(ctx: click.Context, incomplete: str) -> list[str]:
    """Offer the suites of the configuration on the command line, and the declared ones."""
    from drirl_core.benchmarks.declared import declarations

    def names() -> list[str]:
        own = [suite.name for suite in _project(ctx).config.benchmarks.suites]
        return list(dict.fromkeys([*own, *declarations()]))

    return _starting(incomplete, names)


def settings(incomplete: str) -> list[str]:
    """Offer dotted settings, each with its `=`; after the `=`, the values that a setting allows."""
    from drirl_core.config import Config

    key, equals, value = incomplete.partition("=")
    known = dict(_leaves(Config, ""))
    if not equals:
        return [f"{name}=" for name in known if name.startswith(key)]
    return [f"{key}={allowed}" for allowed in _values(known.get(key)) if allowed.startswith(value)]


def _leaves(kind: type, where: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted name and type of every setting of a section that holds no further settings."""
    from drirl_core.config.base import BASE

    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{where}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            if name != BASE:
                yield from _leaves(typing.cast("type", hints[field.name]), f"{name}.")
        else:
            yield name, hints[field.name]


def _values(kind: Any) -> list[str]:
    if typing.get_origin(kind) is Literal:
        return [str(value) for value in typing.get_args(kind)]
    return ["true", "false"] if kind is bool else []


def _project(ctx: click.Context) -> Any:
    """Return the project of the configuration on the command line.

    An option whose value is being typed ends the reading of the line, so that the file may be among the words left.
    """
    from pipeline.cli.common import DEFAULT_CONFIG, read_project

    file = ctx.params.get("old") or next((word for word in ctx.args if word.endswith((".yaml", ".yml"))), None)
    return read_project(Path(file or ctx.params.get("config") or DEFAULT_CONFIG), ctx.params.get("changes"))


def _starting(incomplete: str, names: Callable[[], list[str]]) -> list[str]:
    """Return the names that begin with what was typed; none where the configuration cannot be read."""
    try:
        return [name for name in names() if name.startswith(incomplete)]
    except DrirlError:  # the command itself says what is wrong; a message here would land in the middle of the line
        return []
