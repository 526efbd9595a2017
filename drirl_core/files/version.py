"""Which files of a configuration are read by the reader of files of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drirl_core.config.reading import EMBEDDED
from drirl_core.files import READER

if TYPE_CHECKING:
    from drirl_core.config import Config


def readers_of(config: Config) -> dict[str, str]:
    """Return the reader's version for each file of demonstrations, harmless prompts and refusals that a user gave.

    How shipped files are read does not change, so what is made from them alone keeps its version.
    """
    settings = config.demonstrations
    sources = [settings.helpful, settings.refusals]
    if settings.demonstrator.kind == "file":
        sources += filter(None, (settings.demonstrator.source, config.operations.inbox.source))
    return {f"reader of {source.name}": READER for source in sources if source.path != EMBEDDED}
