"""Which artifacts may be deleted, and how: never the inputs of a promoted policy or of a latest artifact."""

from drirl_core.retention.decide import Decision, Deleted, Key, Leftover, Stock, Stored, decide
from drirl_core.retention.directory import Directory, require_quiet
from drirl_core.retention.objects import Objects
from drirl_core.retention.store import named, place_of, promoted

__all__ = [
    "Decision",
    "Deleted",
    "Directory",
    "Key",
    "Leftover",
    "Objects",
    "Stock",
    "Stored",
    "decide",
    "named",
    "place_of",
    "promoted",
    "require_quiet",
]
