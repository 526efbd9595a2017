"""Refusal on held-out prompts, for choosing settings: `python -m benchmarks.validation base CHECKPOINT...`.

Settings are chosen on these rows (validation and test split of the data sets), never on the benchmark suites. The
splits hold few safe look-alikes, so validation_look_alikes.jsonl holds 140 more, written for this purpose.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.machine import write
from drirl_core import taxonomy
from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.errors import ArtifactError
from drirl_core.graph.layout import dataset_name
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.project import Project
from drirl_core.reporting import LogReporter
from drirl_core.stats import wilson
from drirl_core.store.tables import read_table

LOOK_ALIKES = Path(__file__).parent / "validation_look_alikes.jsonl"


def held_back(project: Project) -> dict[str, list[str]]:
    """Return the prompts outside the training split: unsafe, look_alike and general.

    Raises:
        ArtifactError: a data set has not been made.
    """
    prompts: dict[str, list[str]] = {}
    for line in LOOK_ALIKES.read_text(encoding="utf-8").splitlines():
        prompts.setdefault("look_alike", []).append(json.loads(line)["prompt"])
    for category in (*project.graph.categories, taxonomy.HELPFUL):
        dataset = project.store.latest(dataset_name(category))
        if dataset is None:
            raise ArtifactError(f"{dataset_name(category)} has not been made; run `drirl run` first")
        for row in read_table(dataset.path / "rows.parquet"):
            if row["split"] != "train":
                prompts.setdefault(row["kind"], []).append(row["prompt"])
    return prompts


def main() -> None:
    """Judge greedy completions of each policy and write benchmarks/results/validation.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="+", help="`base`, or the directory of a checkpoint artifact")
    parser.add_argument("--config", default="configs/demo.yaml")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    project = Project.load(arguments.config)
    config, store = project.config, project.store
    rows: list[dict[str, Any]] = []
    for policy in arguments.policies:
        reference: str | Path = config.models.policy if policy == "base" else Path(policy)
        for kind, prompts in held_back(project).items():
            how = SamplingSettings(config.benchmarks.max_new_tokens, 0.0, config.benchmarks.batch_size, config.seed)
            replies = sample(reference, prompts, 1, how, models=config.models, store=store, reporter=LogReporter())
            labels = Counter(label_reply(reply[0].text, prompt) for reply, prompt in zip(replies, prompts, strict=True))
            refused = wilson(labels["refusal"], len(prompts))
            rows.append(
                {"policy": policy, "kind": kind, "n": len(prompts), "refused_95": [refused.low, refused.high], **labels}
            )
    write("validation", {"what": "labels of greedy replies to prompts outside the training split", "rows": rows})


if __name__ == "__main__":
    main()
