"""The safety policy: a text per harm category that demonstrator, judge and report read.

It says what is not answered, what is answered, and how to refuse, at the level of the question. Each text is an input
of its own: a changed one makes stale what was written or judged by it, and nothing of the other categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drirl_core import taxonomy
from drirl_core.config.reading import EMBEDDED
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from drirl_core.config import Config

SHIPPED = Path(__file__).parents[1] / "data" / "safety_policy.yaml"
"""The text that is shipped, of the paper's seven categories."""

_SETTING = "demonstrations.safety_policy"


def texts_of(config: Config) -> dict[str, str]:
    """Return the text of each category that has one.

    Args:
        config: names the file, `embedded` for the shipped one, and the categories.

    Returns:
        Texts by category, in the order of the taxonomy; none where the setting is empty.

    Raises:
        ConfigError: the file cannot be read, names an unknown category, or holds anything but texts.
    """
    place = config.demonstrations.safety_policy
    if not place:
        return {}
    categories = taxonomy.load_categories(config.prompts.taxonomy)
    if place != EMBEDDED:
        return read_policy(Path(place), categories)
    found = read_policy(SHIPPED, taxonomy.SEVEN_CATEGORIES)
    missing = [category for category in categories if category not in found]
    if missing:
        raise ConfigError(
            f"{_SETTING} is {EMBEDDED!r}, and the shipped safety policy has no text for {', '.join(missing)}; write a "
            "YAML file with a text for each of your categories, and name it there"
        )
    return {category: found[category] for category in categories}


def read_policy(path: Path, categories: Sequence[str]) -> dict[str, str]:
    """Read a file of texts.

    Args:
        path: a YAML file in UTF-8 that maps categories to texts; categories without a text may be left out.
        categories: known categories.

    Returns:
        Texts without white space around them, by category, in the order of `categories`.

    Raises:
        ConfigError: it cannot be read, names an unknown category, or holds anything but texts.
    """
    where = f"safety policy {path}"
    loaded = read_yaml(path, "safety policy")
    if not isinstance(loaded, dict) or not loaded:
        held = "nothing" if loaded is None else f"{type(loaded).__name__} {loaded!r}"[:60]
        raise ConfigError(
            f"{where} holds {held}; it needs a text for each category, such as `{categories[0]}: Not answered: ...`"
        )
    for name, text in loaded.items():
        if name == taxonomy.HELPFUL:
            raise ConfigError(f"{where}: {name!r} is no harm category, and nothing is refused in it; take it out")
        if name not in categories:
            raise ConfigError(f"{where}: unknown category {name!r}; {nearest(str(name), categories)}")
        if not isinstance(text, str):
            raise ConfigError(
                f"{where}: the text of {name} is {text!r} ({type(text).__name__}); give a text, after `{name}: >-` in "
                "indented lines"
            )
        if not text.strip():
            raise ConfigError(f"{where}: the text of {name} is empty; write it, or take the category out")
    return {category: loaded[category].strip() for category in categories if category in loaded}
