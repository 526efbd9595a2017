"""The asset `reference_classifiers`: floor and ceiling, fitted on the data sets that the policies learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drirl_core import taxonomy
from drirl_core.benchmarks.references.classifiers import (
    CEILING,
    FLOOR,
    BagOfWords,
    Probe,
    Split,
    fit_bag_of_words,
    fit_probe,
    save,
)
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.reporting import Table
from drirl_core.store.tables import read_table

DEPTH = 0.6
"""Share of the base model's depth at which the probe reads: the middle transfers best to prompts of other authors."""

_COLUMNS = ("prompt_id", "prompt", "category", "kind", "split")


def build_reference_classifiers(context: Context) -> dict[str, Any]:
    """Fit floor and ceiling on the training split, and choose their thresholds on the validation split.

    Writes `floor.json` and `ceiling.json`.

    Args:
        context: inputs are all data sets.

    Returns:
        Rows, AUC on the validation split and what was chosen.

    Raises:
        DataError: a data set cannot be read, or a split lacks unsafe or harmless prompts.
    """
    config = context.config
    rows = _rows(context)
    parts = {name: [row for row in rows if row["split"] == name] for name in ("train", "validation")}
    splits = {name: _split(part) for name, part in parts.items()}
    prompts = {name: [row["prompt"] for row in part] for name, part in parts.items()}
    most = config.benchmarks.reference_over_refusal
    train, validation = ((prompts[name], splits[name]) for name in ("train", "validation"))
    floor = fit_bag_of_words(train, validation, most)
    source = HiddenStates(config.models, context.store)
    layer = source.layer_of(DEPTH)
    states = source.of_prompts([*prompts["train"], *prompts["validation"]], layer, context.reporter)
    cut = len(prompts["train"])
    ceiling = fit_probe(layer, (states[:cut], splits["train"]), (states[cut:], splits["validation"]), most)
    save(floor, context.out / f"{FLOOR}.json")
    save(ceiling, context.out / f"{CEILING}.json")
    return _shown(floor, ceiling, parts)


def _rows(context: Context) -> list[Mapping[str, Any]]:
    """Return the rows of all data sets in the order of the assets, copies left out."""
    found: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for folder in context.inputs.values():
        for row in read_table(folder / "rows.parquet", _COLUMNS):
            found.setdefault((row["prompt_id"], row["category"] == taxonomy.HELPFUL), row)
    if not found:
        raise DataError(f"the data sets {', '.join(context.inputs)} hold no row; materialize them again")
    return list(found.values())


def _split(rows: Sequence[Mapping[str, Any]]) -> Split:
    unsafe = np.array([row["category"] != taxonomy.HELPFUL for row in rows], dtype=bool)
    return Split(unsafe, np.array([row["kind"] != "general" for row in rows], dtype=bool))


def _shown(floor: BagOfWords, ceiling: Probe, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    counts = {name: len(part) for name, part in parts.items()}
    table = [
        {
            "classifier": name,
            "features": len(one.linear.weights),
            "strength": one.linear.strength,
            "validation_auc": one.linear.validation_auc,
        }
        for name, one in ((FLOOR, floor), (CEILING, ceiling))
    ]
    return {
        **counts,
        "layer": ceiling.layer,
        "floor_validation_auc": floor.linear.validation_auc,
        "ceiling_validation_auc": ceiling.linear.validation_auc,
        "classifiers": Table(table),
    }
