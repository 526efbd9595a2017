"""What carries over to a way of writing that was not trained on: `python -m benchmarks.leave_style_out [CONFIG]`.

Floor and ceiling of the reports, a bag of words and a linear probe of hidden states, score the unsafe prompts and the
look-alikes of a finished run's data sets twice: fitted without the prompt's style and everything near it, and fitted
with nine tenths of all prompts, near-duplicates apart (within-style). The ceiling reads the frozen initial model, so
this measures data and model, not a training. No suite is touched.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import shown, write
from drirl_core import taxonomy
from drirl_core.benchmarks.references.classifiers import CEILING, FLOOR, Split, fit_bag_of_words, fit_probe, load
from drirl_core.benchmarks.roc import Scores, auc_interval, compare_auc
from drirl_core.config import load_config
from drirl_core.demonstrations.splits import hold_out_style
from drirl_core.graph.layout import dataset_name
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.tables import read_table

FOLDS, SEED, RESAMPLES = 10, 0, 2000
COLUMNS = ("prompt_id", "prompt", "category", "kind", "split", "origin", "style", "group_id")
HOUSE = "house"
"""The style of more than half of the prompts; without it a fit has less than half of the data."""


def rows_of(project: Project) -> list[Mapping[str, Any]]:
    """Return the unsafe prompts and look-alikes outside the test splits of the latest data sets, each once."""
    found: dict[tuple[str, bool], Mapping[str, Any]] = {}
    for category in (*project.graph.categories, taxonomy.HELPFUL):
        folder = project.store.latest(dataset_name(category))
        if folder is None:
            raise SystemExit(f"{category} has no data set in {project.store.root}; run `drirl run` first")
        for row in read_table(folder.path / "rows.parquet", COLUMNS):
            if row["kind"] != "general" and row["split"] != "test" and row["origin"] != "resampled":
                found.setdefault((row["prompt_id"], row["category"] == taxonomy.HELPFUL), row)
    return list(found.values())


def states_of(project: Project, rows: Sequence[Mapping[str, Any]]) -> tuple[int, np.ndarray]:
    """Return the layer that the reports' ceiling reads, and its hidden states of the prompts, (N, H)."""
    references = project.store.latest("reference_classifiers")
    if references is None:
        raise SystemExit(f"reference_classifiers is not in {project.store.root}; run `drirl run` first")
    layer = load(references.path)[1].layer
    source = HiddenStates(project.config.models, project.store)
    return layer, source.of_prompts([row["prompt"] for row in rows], layer, SilentReporter())


def is_unsafe(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return which rows are unsafe prompts, (N,)."""
    return np.array([row["category"] != taxonomy.HELPFUL for row in rows], dtype=bool)


def without_styles(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the places of the rows to fit on and to score, for each style."""
    place = {id(row): number for number, row in enumerate(rows)}
    for style in sorted({row["style"] for row in rows if row["style"]}):
        fold = hold_out_style(rows, style)
        yield [place[id(row)] for row in (*fold.train, *fold.seen)], [place[id(row)] for row in fold.unseen]


def within_styles(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the places of the rows to fit on and to score, for each tenth of the groups of near-duplicates."""
    groups = sorted({row["group_id"] for row in rows})
    random.Random(SEED).shuffle(groups)
    fold_of = {group: number % FOLDS for number, group in enumerate(groups)}
    for fold in range(FOLDS):
        held = [number for number, row in enumerate(rows) if fold_of[row["group_id"]] == fold]
        yield [number for number, row in enumerate(rows) if fold_of[row["group_id"]] != fold], held


def scored(
    rows: Sequence[Mapping[str, Any]],
    states: tuple[int, np.ndarray],
    folds: Iterator[tuple[list[int], list[int]]],
) -> dict[str, np.ndarray]:
    """Return the scores of floor and ceiling for every row that a fold held out; NaN for the others.

    Args:
        rows: N rows.
        states: the layer, and hidden states (N, H) of it.
        folds: places of rows to fit on and to score; a tenth of the former chooses the probe's regularisation.
    """
    unsafe = is_unsafe(rows)
    found = {name: np.full(len(rows), np.nan) for name in (FLOOR, CEILING)}
    for fitting, held in folds:
        shuffled = random.Random(SEED).sample(fitting, len(fitting))
        choosing, train = shuffled[: len(fitting) // 10], shuffled[len(fitting) // 10 :]
        parts = [(part, Split(unsafe[part], np.ones(len(part), dtype=bool))) for part in (train, choosing)]
        (a, split_a), (b, split_b) = parts
        words = [([rows[number]["prompt"] for number in part], split) for part, split in parts]
        floor = fit_bag_of_words(words[0], words[1], 0.15)
        probe = fit_probe(states[0], (states[1][a], split_a), (states[1][b], split_b), 0.15)
        found[FLOOR][held] = floor.scores([rows[number]["prompt"] for number in held])
        found[CEILING][held] = probe.scores(states[1][held])
    return found


def compared(unsafe: np.ndarray, without: np.ndarray, within: np.ndarray) -> dict[str, Any]:
    """Return both AUCs and their paired difference over the same prompts."""
    out, own = (_by_kind(scores, unsafe) for scores in (without, within))
    return {
        "n": [len(out[0]), len(out[1])],
        "without_style": shown(auc_interval(out, RESAMPLES, SEED)),
        "within_style": shown(auc_interval(own, RESAMPLES, SEED)),
        "difference": shown(compare_auc(out, own, RESAMPLES, SEED)),
    }


def _by_kind(scores: np.ndarray, unsafe: np.ndarray) -> Scores:
    return scores[unsafe].tolist(), scores[~unsafe].tolist()


def pooled(styles: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean difference over styles, each counted by its prompts."""
    weights = [sum(one["n"]) for one in styles]
    return round(float(np.average([one["difference"]["value"] for one in styles], weights=weights)), 3)


def main() -> None:
    """Measure and write benchmarks/results/leave_style_out.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", type=Path)
    project = Project(load_config(parser.parse_args().config))
    rows = rows_of(project)
    layer, states = states_of(project, rows)
    without, within = (scored(rows, (layer, states), folds(rows)) for folds in (without_styles, within_styles))
    unsafe, styles = is_unsafe(rows), np.array([row["style"] for row in rows])
    result: dict[str, Any] = {
        "what": "AUC of unsafe prompts against look-alikes, fitted without the style of the prompts and with it",
        "layer": layer,
        "seed": SEED,
        "resamples": RESAMPLES,
    }
    for name in (FLOOR, CEILING):
        found = {}
        for style in sorted(set(styles) - {""}):
            own = styles == style
            found[style] = compared(unsafe[own], without[name][own], within[name][own])
        others = [one for style, one in found.items() if style != HOUSE]
        result[name] = {"mean_difference_of_other_styles": pooled(others), "styles": found}
    write("leave_style_out", result)


if __name__ == "__main__":
    main()
