"""Which completions are worth a label: `python -m benchmarks.label_queue [CONFIG]`.

D-optimal against random choice at equal numbers of labels, over the completion pools of a finished run. The rules judge
stands in for people. Cross-validation over the prompts of each category: a reward model is fitted on some prompts,
their samples are labelled as far as they are chosen, it is fitted again beside these labels, and judged on the groups
of the other prompts. No held-out suite is touched. What the policy read of the pools is in the store, so that a fit
takes a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write
from benchmarks.reward_objectives import SEED, folds, pools_of, quarters
from drirl_core.config import RewardsConfig, load_config
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.evaluate import score_pool
from drirl_core.rewards.fit import fit
from drirl_core.rewards.labels.items import LabelledItem
from drirl_core.rewards.labels.optimal import greedy_d_optimal
from drirl_core.rewards.labels.queue import Candidates, candidates_of
from drirl_core.rewards.pairs import PoolPrompt, is_right
from drirl_core.rewards.within_groups import Group, group_of, summary

COUNTS = (4, 8, 16, 32)
"""Labels per category."""
DRAWS = 5
"""Random choices, whose mean and range are shown."""
Pools = Mapping[str, tuple[list[PoolPrompt], Mapping[str, Any]]]
Judged = Mapping[tuple[str, str], tuple[PoolPrompt, bool]]


def judged_samples(prompts: Sequence[PoolPrompt]) -> dict[tuple[str, str], tuple[PoolPrompt, bool]]:
    """Return prompt and verdict of sampled completions, by prompt and answer; those neither right nor wrong are out."""
    return {
        (p.prompt, reply.answer): (p, bool(found))
        for p in prompts
        for reply in p.replies
        if (found := is_right(p, reply)) is not None
    }


def labelled_by_judge(rows: Sequence[tuple[str, str]], judged: Judged) -> list[LabelledItem]:
    """Return the labels of some completions as reward data.

    Args:
        rows: prompt and answer of each, all of them judged.
        judged: see `judged_samples`.
    """
    sides: dict[str, tuple[PoolPrompt, list[str], list[str]]] = {}
    for row in rows:
        prompt, right = judged[row]
        sides.setdefault(prompt.prompt_id, (prompt, [], []))[1 if right else 2].append(row[1])
    return [
        LabelledItem(key, prompt.prompt, "train", tuple(right), tuple(wrong))
        for key, (prompt, right, wrong) in sides.items()
    ]


def choices(candidates: Candidates, judged: Judged, count: int) -> dict[str, list[tuple[str, str]]]:
    """Return the D-optimal choice of so many judged completions, and some random ones, by name."""
    usable = [i for i, row in enumerate(candidates.rows) if row in judged]
    best = greedy_d_optimal(candidates.features[usable], count, candidates.known).rows
    drawn = {f"random {seed}": np.random.default_rng(seed).permutation(len(usable))[:count] for seed in range(DRAWS)}
    chosen = {"d_optimal": best, **drawn}
    return {name: [candidates.rows[usable[i]] for i in rows] for name, rows in chosen.items()}


def measure(pools: Pools, source: Any, settings: RewardsConfig, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """Return the share of held-out pairs won without labels, and by number and choice of labels.

    Args:
        pools: prompts and the fold of each, by category.
        source: reads the texts.
        settings: of the reward models.
        counts: labels per category.
    """
    groups: dict[tuple[int, str], list[Group]] = {}

    def fitted(category: str, fitting: list[PoolPrompt], labels: list[LabelledItem]) -> Any:
        return fit(category, fitting, source, settings, SEED, SilentReporter(), labels=labels).model

    def note(count: int, name: str, model: Any, held: list[PoolPrompt]) -> None:
        rows = groups.setdefault((count, name), [])
        rows += [group_of(one.prompt, one.reply_rewards) for one in score_pool(model, held)]

    for category, (prompts, fold_of) in pools.items():
        for fitting, held in folds(prompts, fold_of):
            plain = fitted(category, fitting, [])
            note(0, "none", plain, held)
            candidates = candidates_of(plain, fitting, set(), (source, settings, SilentReporter()))
            judged = judged_samples([p for p in fitting if p.split == "train"])
            for count in counts:
                for name, rows in choices(candidates, judged, count).items():
                    note(count, name, fitted(category, fitting, labelled_by_judge(rows, judged)), held)
    return {"no labels": summary(groups[0, "none"]), **{str(count): _row(groups, count) for count in counts}}


def _row(groups: Mapping[tuple[int, str], list[Group]], count: int) -> dict[str, Any]:
    """Return the D-optimal figure, and mean and range of the random ones."""
    drawn = [summary(found)["accuracy"] for (n, name), found in groups.items() if n == count and name != "d_optimal"]
    return {
        "d_optimal": summary(groups[count, "d_optimal"]),
        "random": {"mean": float(np.mean(drawn)), "lowest": min(drawn), "highest": max(drawn), "draws": len(drawn)},
    }


def main() -> None:
    """Measure and write benchmarks/results/label_queue.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", type=Path)
    project = Project(load_config(parser.parse_args().config))
    pools = {}
    for category in project.graph.categories:
        prompts, _ = pools_of(project, category)
        pools[category] = (prompts, quarters(prompts))
    source = HiddenStates(project.config.models, project.store)
    found = measure(pools, source, project.config.rewards)
    prompts = sum(len(own) for own, _ in pools.values())
    write("label_queue", {"prompts": prompts, "categories": len(pools), "labels per category": found})


if __name__ == "__main__":
    main()
