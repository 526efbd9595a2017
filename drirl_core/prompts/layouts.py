"""The records of `sources.yaml`: how each public source of prompts lays out its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from drirl_core.config import EMBEDDED, Config, SourceConfig
from drirl_core.config.strict_yaml import read_yaml


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
    found = {source.name: load_layouts().get(layout_name(source)) for source in config.prompt_sources}
    return {f"layout of source {name}": asdict(layout) for name, layout in found.items() if layout}
