"""The harm categories: seven by default, any number from a file.

The code does not rely on seven or on these names; label maps of public sources are data in
`drirl_core/prompts/sources.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from drirl_core.config.names import name_problem
from drirl_core.config.strict_yaml import read_yaml
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

ALL = "all"
"""Name of the sum of all categories in tables of results."""

RESERVED: Mapping[str, str] = {
    HELPFUL: "of the harmless set",
    ALL: "of the sum of all categories in every table",
}
"""Names that no category may have, and why."""


def load_categories(path: str | Path | None) -> tuple[str, ...]:
    """Return the harm categories of a taxonomy file, or the seven of the paper.

    Args:
        path: a YAML file holding a list of names under the key `categories`; None or an empty text for the seven.

    Returns:
        The category names in the file's order, at least one.

    Raises:
        ConfigError: the file is missing, or a name is not a lower-case identifier, too long, repeated or reserved.
    """
    if not path:
        return SEVEN_CATEGORIES
    if not Path(path).is_file():
        raise ConfigError(
            f"taxonomy file {path} cannot be read (there is no such file); give a YAML file with a list `categories`"
        )
    loaded = read_yaml(Path(path), "taxonomy file")
    names = loaded.get("categories") if isinstance(loaded, dict) else None
    if not isinstance(names, list) or not names:
        raise ConfigError(f"taxonomy file {path} needs a non-empty list under the key 'categories'")
    unknown = [key for key in loaded if key != "categories"]
    if unknown:
        raise ConfigError(
            f"taxonomy file {path}: the key {unknown[0]!r} is not read; the file holds `categories` alone"
        )
    for name in names:
        problem = name_problem(name, RESERVED)
        if not problem and name != "_".join(filter(None, name.split("_"))):
            problem = "write one '_' between two words and none at the end: labels are compared without regard to them"
        if problem:
            raise ConfigError(f"taxonomy file {path}: {name!r} cannot name a category; {problem}")
    if len(set(names)) != len(names):
        raise ConfigError(f"taxonomy file {path}: category names repeat: {names}")
    return tuple(names)
