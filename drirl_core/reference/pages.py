"""Every file that is made from the code, by its path in the project."""

from __future__ import annotations

from pathlib import Path

from drirl_core.project import Project
from drirl_core.reference.picture import graph_picture
from drirl_core.reference.settings import settings_page
from drirl_core.reference.tables import tables_page


def pages(root: Path) -> dict[str, str]:
    """Return the text of each file.

    Args:
        root: directory of the project; the picture shows the graph of its `configs/demo.yaml`.

    Raises:
        ConfigError: that file cannot be used.
    """
    demo = Project.load(root / "configs" / "demo.yaml")
    return {
        "docs/reference/settings.md": settings_page(),
        "docs/reference/tables.md": tables_page(),
        "docs/images/graph.svg": graph_picture(demo.graph),
    }
