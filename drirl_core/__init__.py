"""DR-IRL: inverse reinforcement learning with dynamic reward scaling for safety alignment.

Importing it is cheap: `open_table`, which opens any table of a run as a pandas DataFrame, is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drirl_core.graph.tables import open_table

__version__ = "0.1.0"
__all__ = ["__version__", "open_table"]


def __getattr__(name: str) -> Any:
    if name == "open_table":
        from drirl_core.graph.tables import open_table

        return open_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
