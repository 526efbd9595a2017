"""The page of all settings, from the configuration classes and their help texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from drirl_core.config import BASELINES, Config, InboxConfig, ModelsConfig, OperationsConfig, RewardsConfig
from drirl_core.config.explain import Setting, settings_of
from drirl_core.config.strict_yaml import dump_yaml
from drirl_core.graph.versions import deciding
from drirl_core.project import Project
from drirl_core.reference.markdown import MADE, cell, table

_INTRO = """# Settings

Every setting with its default. A configuration file holds only its differences, from these defaults or from the file
that it names in `extends`; `drirl config FILE` prints the values in use, `drirl config FILE --explain` prints them with
these texts. Change one for a single run with `--set policy.steps=48`. Relative file paths are taken from the directory
of the file that names them.
"""
_EXAMPLE = Config(
    models=ModelsConfig(policy="hf:org/policy@revision", encoder="hf:org/encoder@revision"),
    operations=OperationsConfig(inbox=InboxConfig(folder="inbox")),
    baselines=BASELINES,
    rewards=RewardsConfig(rounds=2),
)
"""Defaults, a drop folder, all baselines and two rounds, so that every kind of stage and every condition on what it
reads is there."""


_FILLED_IN = ("base",)
"""Sections that a configuration fills in about itself, so that nobody sets them."""


def settings_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([MADE, "", _INTRO, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    top = list(settings_of(Config))
    yield "## Top level\n"
    yield from _table("", [setting for setting in top if setting.section is None])
    seen: dict[type, str] = {}
    for setting in top:
        if setting.section is not None and setting.name not in _FILLED_IN:
            yield from _section(setting.name, setting.section, setting.help, seen)


def _section(name: str, cls: type, text: str, seen: dict[type, str]) -> Iterator[str]:
    """Yield a section and, below it, the sections in it; a class that was described before is only named."""
    yield f"{'###' if '.' in name else '##'} {name}\n"
    if cls in seen:
        yield f"{text} The same settings as [`{seen[cls]}`](#{anchor(seen[cls])}).\n"
        return
    seen[cls] = name
    yield f"{(cls.__doc__ or text).strip().splitlines()[0]}\n"
    if "." not in name:
        named = ", ".join(f"`{stage}`" for stage in _readers(name))
        yield f"Decides, at least in part: {named}.\n" if named else "Decides no result: a change recomputes nothing.\n"
    inner = list(settings_of(cls))
    yield from _table(f"{name}.", [setting for setting in inner if setting.section is None])
    for setting in inner:
        below = setting.section or setting.rows
        if below is not None:
            yield from _section(f"{name}.{setting.name}", below, setting.help, seen)


@cache
def _readers(section: str) -> tuple[str, ...]:
    """Name the stages whose results a section decides, at least in part."""
    nodes = Project(_EXAMPLE).graph.nodes.values()
    found = [
        node.stage for node in nodes if any(f"{named}.".startswith(f"{section}.") for named in deciding(node, _EXAMPLE))
    ]
    return tuple(dict.fromkeys(found))


def _table(prefix: str, settings: Sequence[Setting]) -> Iterator[str]:
    rows = [
        (f"`{prefix}{setting.name}`", setting.kind, _default(setting.default), setting.help) for setting in settings
    ]
    yield from table(("setting", "takes", "default", "what it does"), rows)


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "**must be given**"
    plain = json.loads(json.dumps(value, default=dataclasses.asdict))
    if isinstance(plain, list) and plain and all(isinstance(row, Mapping) and "name" in row for row in plain):
        plain = [row["name"] for row in plain]
    text = dump_yaml(plain, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    return f"`{cell(text)}`"


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
