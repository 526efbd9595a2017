"""The reward over propositions as a table: what it rewards, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drirl_core.report.reading import read_json, read_rows

_ASSET = "proposition_reward"
_COLUMNS = ("kind", "proposition", "meaning", "weight", "demonstrations", "completions")


def propositions_section(folder: Path | None) -> dict[str, Any] | None:
    """Return the table of propositions, heaviest first, and how often the reward orders a group rightly.

    Args:
        folder: directory of `proposition_reward`; None where there is none.

    Returns:
        `text`, `head`, `rows` and `note`; None where there is none.

    Raises:
        ArtifactError: the table or the metrics are missing.
    """
    if folder is None:
        return None
    rows = read_rows(folder, "propositions.parquet", _COLUMNS, _ASSET)
    ordered = sorted(rows, key=lambda row: (row["kind"], -abs(row["weight"]), row["proposition"]))
    found = read_json(folder, "metrics.json", _ASSET)["within_group"]["all"]
    text = "A control that learned rewards must beat: one weight per proposition and kind of prompt. "
    if found["accuracy"] is not None:
        text += (
            f"Within groups of held-out samples it puts the right one first in {100 * found['accuracy']:.0f} % of "
            f"{found['pairs']} pairs ({100 * found['low']:.0f} to {100 * found['high']:.0f} %, "
            f"{found['groups']} groups)."
        )
    return {
        "text": text,
        "head": ["prompts", "a reply that ...", "weight", "true in demonstrations", "true in completions"],
        "rows": [
            [
                row["kind"],
                row["meaning"],
                f"{row['weight']:+.2f}",
                *(f"{100 * row[name]:.0f} %" for name in ("demonstrations", "completions")),
            ]
            for row in ordered
        ],
        "note": "Shares over training prompts; the completions are those set against the demonstrations.",
    }
