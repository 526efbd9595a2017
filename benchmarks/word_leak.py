"""How much the words of the training prompts alone give away: `python -m benchmarks.word_leak [--data NAME=FOLDER]`.

The bag of words that every report shows as the floor is fitted on all unsafe and all harmless prompts of a data folder
and scores the prompts of suites. An AUC of 1/2 means that words tell nothing. Each `--data` compares another folder,
such as `drirl_core/data` of an earlier checkout; `--xstest` adds that suite from your copy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import shown, write
from drirl_core.benchmarks.references.classifiers import Split, fit_bag_of_words
from drirl_core.benchmarks.roc import Scores, auc_interval, compare_auc
from drirl_core.benchmarks.suites import PAIRED, load_suite
from drirl_core.config import SuiteConfig
from drirl_core.graph.layout import DATA_FOLDER
from drirl_core.store.tables import prompt_id

RESAMPLES, SEED, VALIDATION_EVERY = 2000, 0, 10


def prompts_of(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the prompts of a data folder without its planted defects, and which of them are unsafe."""

    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    planted = {row["id"] for row in rows("planted_defects.jsonl")}
    unsafe = [row["prompt"] for row in rows("unsafe_prompts.jsonl") if row["id"] not in planted]
    harmless = [row["prompt"] for row in rows("helpful.jsonl")]
    return [*unsafe, *harmless], np.repeat([True, False], [len(unsafe), len(harmless)])


def scores_of(folder: Path, suites: list[SuiteConfig]) -> tuple[dict[str, int], dict[str, Scores]]:
    """Fit the floor on a folder; return the sizes of its data, and the scores of each suite's prompts by its name."""
    prompts, unsafe = prompts_of(folder)
    held = np.array([int(prompt_id(prompt), 16) % VALIDATION_EVERY == 0 for prompt in prompts])

    def part(chosen: np.ndarray) -> tuple[list[str], Split]:
        own = unsafe[chosen]
        return [prompts[i] for i in np.flatnonzero(chosen)], Split(own, np.ones(len(own), dtype=bool))

    floor = fit_bag_of_words(part(~held), part(held), 0.15)
    found: dict[str, Scores] = {}
    for suite in suites:
        risky, safe = ([row.prompt for row in load_suite(suite) if row.group == group] for group in PAIRED)
        found[suite.name] = (list(floor.scores(risky)), list(floor.scores(safe)))
    return {"unsafe": int(unsafe.sum()), "harmless": int((~unsafe).sum())}, found


def main() -> None:
    """Measure and write benchmarks/results/word_leak.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", default=[], help="NAME=FOLDER, another data folder to compare with")
    parser.add_argument("--xstest", help="directory with xstest_prompts.csv")
    arguments = parser.parse_args()
    suites = [SuiteConfig("embedded"), SuiteConfig("twins")]
    if arguments.xstest:
        suites.append(SuiteConfig("xstest", arguments.xstest))
    sizes, present = scores_of(DATA_FOLDER, suites)
    data: dict[str, Any] = {
        "present": {**sizes, "auc": {name: shown(auc_interval(own, RESAMPLES, SEED)) for name, own in present.items()}}
    }
    for name, _, folder in (one.partition("=") for one in arguments.data):
        sizes, other = scores_of(Path(folder), suites)
        data[name] = {
            **sizes,
            "auc": {suite: shown(auc_interval(own, RESAMPLES, SEED)) for suite, own in other.items()},
            "present_minus_this": {
                suite: shown(compare_auc(present[suite], own, RESAMPLES, SEED)) for suite, own in other.items()
            },
        }
    write(
        "word_leak",
        {
            "what": "AUC of a bag of words fitted on the training prompts, unsafe against safe prompts of each suite",
            "n": {name: [len(part) for part in own] for name, own in present.items()},
            "resamples": RESAMPLES,
            "seed": SEED,
            "data": data,
        },
    )


if __name__ == "__main__":
    main()
