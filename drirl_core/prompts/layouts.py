"""The records of `sources.yaml`: how each public source of prompts lays out its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from drirl_core.config import EMBEDDED, Config, SourceConfig
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.files import READER

CHAT_LAYOUTS = ("columns", EMBEDDED)
"""Layouts of files of any origin, which may hold their prompts in chat format."""


@dataclass(frozen=True)
class Layout:
    """How one public source lays out its rows; the fields are explained in `sources.yaml`."""

    name: str
    home: str
    licence: str
    files: tuple[str, ...]
    prompt: tuple[str, ...]
    category: tuple[str, ...]
    labels: Mapping[str, str]
    flags: tuple[str, ...] = ()
    only: Mapping[str, str] = field(default_factory=dict)
    id: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    licence_column: tuple[str, ...] = ()
    category_optional: bool = False
    evaluation: bool = False
    safe: tuple[str, ...] = ()
    order: tuple[str, ...] = ()


@cache
def load_layouts() -> Mapping[str, Layout]:
    """Return the records of `sources.yaml` by name."""
    loaded = read_yaml(Path(__file__).with_name("sources.yaml"), "file")
    return {
        name: Layout(
            name=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        )
        for name, record in loaded.items()
    }


def layout_name(source: SourceConfig) -> str:
    """Return the name of the layout that a source is read by; it may be unknown."""
    return (
        EMBEDDED if source.path == EMBEDDED and source.adapter == "columns" and not source.columns else source.adapter
    )


def layouts_of(config: Config) -> dict[str, dict[str, Any]]:
    """Return the record by which each source of prompts is read, under a name for people; unknown ones are left out."""
    found = {source.name: (source, load_layouts().get(layout_name(source))) for source in config.prompt_sources}
    return {f"layout of source {name}": _as_data(layout, source) for name, (source, layout) in found.items() if layout}


def _as_data(layout: Layout, source: SourceConfig) -> dict[str, Any]:
    """Return what decides how a source is read; a shipped file is always read alike, so its record adds nothing."""
    data = {name: value for name, value in asdict(layout).items() if value or name not in ("safe", "order")}
    return data if source.path == EMBEDDED else {**data, "reader": READER}
