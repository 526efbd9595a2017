"""How many rows of each source of prompts are lost, and why: said on the console and compared with a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

REPEATS = frozenset({"exact_duplicate", "near_duplicate", "duplicate_prompt", "copied_answer", "benchmark_overlap"})
"""Reasons of quarantine that lose nothing: the row is there already, or must not be used."""

NOT_ROUTED = "not_routed"
"""Reason of a row without a label where the router was not asked, so that nobody knows yet whether it is lost."""

_LONGEST_DETAIL = 240


@dataclass(frozen=True)
class Loss:
    """One quarantined row.

    Args:
        source: name of the source.
        reason: the quarantine reason.
        place: file where there are several, and row; empty where the detail says it.
        detail: the reason in words.
    """

    source: str
    reason: str
    place: str
    detail: str


@dataclass(frozen=True)
class SourceLosses:
    """The quarantined rows of one source.

    Args:
        source: its name.
        kept: rows that are used.
        reasons: quarantined rows by reason.
        first: the first of them, one that is lost where there is one.
    """

    source: str
    kept: int
    reasons: Mapping[str, int]
    first: Loss

    @property
    def lost(self) -> int:
        """Quarantined rows that repeat nothing."""
        return sum(n for reason, n in self.reasons.items() if reason not in REPEATS and reason != NOT_ROUTED)

    @property
    def share(self) -> float:
        """Lost rows as a share of the rows that repeat nothing, in [0, 1]."""
        others = self.kept + self.reasons.get(NOT_ROUTED, 0)
        return self.lost / (self.lost + others) if self.lost else 0.0

    def __str__(self) -> str:
        """Say it in one line, such as `29 of 30 rows of toy are in quarantine: 29 undecodable; first: row 1: ...`."""
        count = sum(self.reasons.values())
        by_size = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{n} {reason}" for reason, n in by_size)
        detail = self.first.detail
        if len(detail) > _LONGEST_DETAIL:
            detail = f"{detail[: _LONGEST_DETAIL - 3]}..."
        first = ": ".join(filter(None, (self.first.place, detail)))
        are = "is" if count == 1 else "are"
        text = f"{count} of {count + self.kept} rows of {self.source} {are} in quarantine: {listed}; first: {first}"
        return text.encode("utf-8", "backslashreplace").decode()  # half characters cannot be printed


def losses_by_source(kept: Mapping[str, int], quarantined: Iterable[Loss]) -> dict[str, SourceLosses]:
    """Count the quarantined rows of each source.

    Args:
        kept: rows that are used, by source.
        quarantined: all quarantined rows, in the order of the sources and files.

    Returns:
        The losses by source, for sources that have any.
    """
    of: dict[str, list[Loss]] = {}
    for loss in quarantined:
        of.setdefault(loss.source, []).append(loss)
    return {
        source: SourceLosses(
            source,
            kept.get(source, 0),
            Counter(loss.reason for loss in rows),
            next((loss for loss in rows if loss.reason not in REPEATS and loss.reason != NOT_ROUTED), rows[0]),
        )
        for source, rows in of.items()
    }
