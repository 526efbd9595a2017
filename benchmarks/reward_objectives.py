"""Which objective orders completions best within a group: `python -m benchmarks.reward_objectives [CONFIG]`.

Cross-validation over the prompts of the completion pools of a finished run: each reward model is fitted on some prompts
of its category and judged on the others, all harm categories together; once with a quarter of the prompts left out at a
time, once with one writing style, to see what carries over. No held-out suite is touched. What the policy read of the
pools is in the store, so that a fit takes a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import write
from drirl_core.completions.policies import SFT_START
from drirl_core.config import RewardsConfig, load_config
from drirl_core.graph.layout import dataset_name
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.evaluate import score_pool
from drirl_core.rewards.fit import fit
from drirl_core.rewards.pairs import PoolPrompt
from drirl_core.rewards.stage import pool_prompts
from drirl_core.rewards.within_groups import Group, group_of, summary
from drirl_core.store.tables import read_table

FOLDS, SEED = 4, 0
VALIDATION_SHARE = 0.2
"""Share of the fitting prompts that chooses the epoch."""
VARIANTS: dict[str, dict[str, Any]] = {
    "maxent, all negatives": {"negatives": "all"},
    "maxent": {},
    "bradley_terry, all negatives": {"objective": "bradley_terry", "negatives": "all"},
    "classifier": {"objective": "classifier"},
    "maxent, completion alone": {"features": "completion"},
    "maxent, linear head": {"hidden": 0},
    "maxent, 5 heads": {"ensemble": 5, "ensemble_penalty": 0.0},
}


def pools_of(project: Project, category: str) -> tuple[list[PoolPrompt], dict[str, str]]:
    """Return the prompts of a category's latest data set with their latest completion pool, and the style of each."""
    folders = [project.store.latest(name) for name in (dataset_name(category), f"completion_pool_{category}")]
    if None in folders:
        raise SystemExit(f"{category} has no completion pool in {project.store.root}; run `drirl run` first")
    dataset, pool = (folder.path for folder in folders if folder)
    styles = {row["prompt_id"]: row["style"] for row in read_table(dataset / "rows.parquet", ("prompt_id", "style"))}
    prompts = pool_prompts(dataset, [pool], project.config.completions, category)
    return prompts, {prompt.prompt_id: styles[prompt.prompt_id] for prompt in prompts}


def quarters(prompts: Sequence[PoolPrompt]) -> dict[str, int]:
    """Deal the prompts into folds; return the fold of each by its id."""
    shuffled = random.Random(SEED).sample(list(prompts), len(prompts))
    return {prompt.prompt_id: i % FOLDS for i, prompt in enumerate(shuffled)}


def folds(prompts: Sequence[PoolPrompt], fold_of: Mapping[str, Any]) -> Iterator[tuple[list[PoolPrompt], ...]]:
    """Yield for each fold the prompts to fit on, with their splits, and those to judge on."""
    for fold in sorted(set(fold_of.values())):
        held = [prompt for prompt in prompts if fold_of[prompt.prompt_id] == fold]
        rest = [prompt for prompt in prompts if fold_of[prompt.prompt_id] != fold]
        random.Random(SEED).shuffle(rest)
        choosing = round(len(rest) * VALIDATION_SHARE)
        splits = ["validation"] * choosing + ["train"] * (len(rest) - choosing)
        yield [dataclasses.replace(p, split=split) for p, split in zip(rest, splits, strict=True)], held


def measure(
    pools: Mapping[str, tuple[list[PoolPrompt], Mapping[str, Any]]], source: HiddenStates, settings: RewardsConfig
) -> dict[str, Any]:
    """Return the share of pairs won, over the groups of all samples and of the samples of the SFT start.

    Args:
        pools: prompts and the fold of each, by category.
        source: reads the texts.
        settings: of the reward models.
    """
    every: list[Group] = []
    start: list[Group] = []
    for category, (prompts, fold_of) in pools.items():
        for fitting, held in folds(prompts, fold_of):
            model = fit(category, fitting, source, settings, SEED, SilentReporter()).model
            for one in score_pool(model, held):
                every.append(group_of(one.prompt, one.reply_rewards))
                start.append(group_of(one.prompt, one.reply_rewards, (SFT_START,)))
    return {"all samples": _rounded(summary(every)), "samples of the SFT start": _rounded(summary(start))}


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    """Measure and write benchmarks/results/reward_objectives.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", type=Path)
    project = Project(load_config(parser.parse_args().config))
    pools = {category: pools_of(project, category) for category in project.graph.categories}
    source = HiddenStates(project.config.models, project.store)
    settings = dataclasses.replace(project.config.rewards, epochs=200, objective="maxent", negatives="likely_wrong")
    ways = {
        "a quarter of the prompts left out": {name: (own, quarters(own)) for name, (own, _) in pools.items()},
        "one style left out": pools,
    }
    found = {
        way: {name: measure(chosen, source, dataclasses.replace(settings, **how)) for name, how in VARIANTS.items()}
        for way, chosen in ways.items()
    }
    prompts = sum(len(own) for own, _ in pools.values())
    write("reward_objectives", {"prompts": prompts, "categories": len(pools), **found})


if __name__ == "__main__":
    main()
