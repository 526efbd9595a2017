"""How much further prompts would tell: `python -m benchmarks.learning_curve [CONFIG]`.

The ceiling of the reports, a linear probe of the frozen initial model's hidden states, is fitted on random parts of the
training prompts of a finished run's data sets and scores the validation prompts, unsafe ones against look-alikes. Twins
stay together. While the curve rises, data is what limits a policy that is at the probe's level. No suite is touched.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leave_style_out import is_unsafe, rows_of, states_of
from benchmarks.machine import shown, write
from drirl_core.benchmarks.references.classifiers import Split, fit_probe
from drirl_core.benchmarks.roc import auc, auc_interval
from drirl_core.config import load_config
from drirl_core.project import Project

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
PARTS, SEED, RESAMPLES = 8, 0, 2000
"""Random parts per share below 1, their seed, and bootstrap resamples of the validation prompts."""


def part_of(rows: Sequence[Mapping[str, Any]], share: float, seed: int) -> list[int]:
    """Return the places of a random share of the groups of near-duplicates, which twins are in together."""
    groups = sorted({row["group_id"] for row in rows})
    kept = set(random.Random(seed).sample(groups, round(share * len(groups))))
    return [number for number, row in enumerate(rows) if row["group_id"] in kept]


def main() -> None:
    """Measure and write benchmarks/results/learning_curve.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", type=Path)
    project = Project(load_config(parser.parse_args().config))
    rows = rows_of(project)
    layer, states = states_of(project, rows)
    places = {name: [n for n, row in enumerate(rows) if row["split"] == name] for name in ("train", "validation")}
    train, validation = ([rows[n] for n in places[name]] for name in ("train", "validation"))
    unsafe = is_unsafe(validation)
    held = states[places["validation"]], Split(unsafe, np.ones(len(unsafe), dtype=bool))
    curve = []
    for share in SHARES:
        found, sizes, scores = [], [], []
        for seed in range(PARTS if share < 1 else 1):
            chosen = part_of(train, share, SEED + seed)
            labels = is_unsafe([train[n] for n in chosen])
            part = states[[places["train"][n] for n in chosen]], Split(labels, np.ones(len(labels), dtype=bool))
            scores = fit_probe(layer, part, held, 0.15).scores(held[0])
            found.append(auc(scores[unsafe], scores[~unsafe]))
            sizes.append(len(chosen))
        row: dict[str, Any] = {
            "prompts": round(float(np.mean(sizes))),
            "auc": round(float(np.mean(found)), 3),
            "lowest": round(min(found), 3),
            "highest": round(max(found), 3),
        }
        if share == 1:
            row["auc_interval"] = shown(
                auc_interval((scores[unsafe].tolist(), scores[~unsafe].tolist()), RESAMPLES, SEED)
            )
        curve.append(row)
    write(
        "learning_curve",
        {
            "what": "AUC of a linear probe on the validation prompts, by the number of training prompts",
            "n": [int(unsafe.sum()), int((~unsafe).sum())],
            "layer": layer,
            "parts": PARTS,
            "seed": SEED,
            "regularisation": "the best of five strengths on the same validation prompts, as for the reports' ceiling",
            "curve": curve,
        },
    )


if __name__ == "__main__":
    main()
