"""The harm categories: seven by default, any number from a file.

The code does not rely on seven or on these names; label maps of public sources are data in
`drirl_core/prompts/sources.yaml`.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from drirl_core.errors import ConfigError

HELPFUL = "helpful"
"""Name of the eighth data set and reward model, which keeps utility. It is not a harm category."""

SEVEN_CATEGORIES: tuple[str, ...] = (
    "insult",
    "unfairness_and_discrimination",
    "crimes_and_illegal_activities",
    "physical_harm",
    "mental_health",
    "privacy_and_property",
    "ethics_and_morality",
)
"""The seven typical scenarios of Safety-Prompts, which the DR-IRL paper uses."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def load_categories(path: str | Path | None) -> tuple[str, ...]:
    """Return the harm categories of a taxonomy file, or the seven of the paper.

    Args:
        path: a YAML file holding a list of names under the key `categories`; None or an empty text for the seven.

    Returns:
        The category names in the file's order, at least one.

    Raises:
        ConfigError: the file is missing or a name is not a lower-case identifier, repeated or `helpful`.
    """
    if not path:
        return SEVEN_CATEGORIES
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"taxonomy file {path} cannot be read ({error}); give a YAML file with a list `categories`"
        ) from error
    names = loaded.get("categories") if isinstance(loaded, dict) else None
    if not isinstance(names, list) or not names:
        raise ConfigError(f"taxonomy file {path} needs a non-empty list under the key 'categories'")
    for name in names:
        if not isinstance(name, str) or not _NAME.match(name) or name == HELPFUL:
            raise ConfigError(
                f"taxonomy file {path}: {name!r} cannot name a category; use lower-case letters, digits and '_', "
                f"and not {HELPFUL!r}, which names the harmless set"
            )
    if len(set(names)) != len(names):
        raise ConfigError(f"taxonomy file {path}: category names repeat: {names}")
    return tuple(names)
