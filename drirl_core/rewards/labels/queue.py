"""The labelling queue: which completions of the pools people should label, and the file that they fill in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from drirl_core.completions.policies import SAMPLED
from drirl_core.errors import ConfigError, DataError, nearest
from drirl_core.rewards.labels.optimal import greedy_d_optimal, information_growth
from drirl_core.rewards.labels.rows import LABELLED, LABELS
from drirl_core.rewards.pairs import CORRUPTED, PoolPrompt
from drirl_core.store.tables import normalise, prompt_id
from drirl_core.text.quality import has_words

if TYPE_CHECKING:
    from drirl_core.graph.layout import Graph
    from drirl_core.graph.planned import Named
    from drirl_core.reporting import Reporter

By = Literal["d_optimal", "random", "disagreement"]
COLUMNS = (*LABELLED, "category", "allowed")
"""Columns of the file that people fill in."""
ENDINGS = (".csv", ".jsonl")
_RANDOM_DRAWS = 20
"""Random choices whose mean growth stands beside that of the chosen rows."""


@dataclass(frozen=True)
class Candidates:
    """The completions of one category that could be labelled.

    Args:
        category: name of the category.
        rows: prompt and answer of each, N.
        features: what the reward head reads of them, (N, F).
        known: the same of rows whose label is known: demonstrations, completions that were made to be wrong, and what
            people labelled already, (M, F).
        spread: standard deviation of the rewards over the heads of an ensemble, (N,); None for a single head.
    """

    category: str
    rows: Sequence[tuple[str, str]]
    features: np.ndarray
    known: np.ndarray
    spread: np.ndarray | None = None


@dataclass(frozen=True)
class Queue:
    """The chosen completions.

    Args:
        rows: category, prompt and answer, the most useful first.
        growth: of log det of the information about all reward heads, by the labels of these rows, in nats.
        random_growth: the same by as many random rows, the mean of some draws.
        candidates: completions there were to choose from.
    """

    rows: Sequence[tuple[str, str, str]]
    growth: float
    random_growth: float
    candidates: int


def collect(named: Named, categories: Sequence[str], reporter: Reporter) -> list[Candidates]:
    """Read the sampled completions of training prompts, of all rounds, and what the reward models read of them.

    Left out are held-out prompts, which no label may teach; what is labelled already; and completions without words,
    degenerate ones and echoes, whose rewards are set by rule.

    Args:
        named: gives data sets, completion pools and reward models.
        categories: whose completions are wanted, at least one.
        reporter: gets progress.

    Raises:
        ConfigError: a category is unknown.
        ArtifactError: a pool or a reward model is not built yet; the message says which command builds it.
        DataError: an artifact or a file of labels cannot be read.
    """
    from drirl_core.graph.layout import dataset_name
    from drirl_core.rewards.labels.exclusion import labelled_rows
    from drirl_core.rewards.model import load_reward_model, source_of
    from drirl_core.rewards.stage import pool_prompts

    project = named.project
    config, store = project.config, project.store
    models = {name: f"reward_model_{name}" for name in categories}
    unknown = next((name for name in categories if models[name] not in project.graph.nodes), None)
    if unknown:
        known = [node.category or "" for node in project.graph.of("reward_model")]
        raise ConfigError(f"--category {unknown!r} is not in the taxonomy; {nearest(unknown, known)}")
    pools = {name: _pools(project.graph, models[name]) for name in categories}
    needed = [asset for name in categories for asset in (dataset_name(name), *pools[name], models[name])]
    found = named.open(*needed)
    before = labelled_rows(config, project.graph.sources)
    labelled = {(prompt_id(row.prompt), normalise(side)) for row in before for side in (row.right, row.wrong) if side}
    collected, sources = [], {}
    for name in categories:
        completions = [found[pool].path for pool in pools[name]]
        prompts = pool_prompts(found[dataset_name(name)].path, completions, config.completions, name)
        model = load_reward_model(found[models[name]].path)
        if model.reads not in sources:
            sources[model.reads] = source_of(model.reads, config.models, store)
        model.use(sources[model.reads])
        collected.append(candidates_of(model, prompts, labelled, (sources[model.reads], config.rewards, reporter)))
    return collected


def candidates_of(
    model: Any, prompts: Sequence[PoolPrompt], labelled: set[tuple[str, str]], reading: tuple[Any, Any, Any]
) -> Candidates:
    """Divide the training rows of a category into candidates and rows whose label is known.

    Args:
        model: the reward model of the category.
        prompts: its prompts with their pools.
        labelled: prompt_id and normalised answer of what people labelled already.
        reading: source, reward settings and reporter, as `read_rows` takes them.
    """
    import torch

    from drirl_core.rewards.backbones.hidden_state import intact

    known: dict[tuple[str, str], None] = {}
    sampled: dict[tuple[str, str], None] = {}
    for p in (p for p in prompts if p.split == "train"):
        known[p.prompt, p.answer] = None
        for reply in p.replies:
            told = reply.policy not in SAMPLED or (p.prompt_id, normalise(reply.answer)) in labelled
            if reply.policy != CORRUPTED and has_words(reply.answer):
                (known if told else sampled)[p.prompt, reply.answer] = None
    rows = [row for row in sampled if row not in known]
    sound = intact([prompt for prompt, _ in rows], [answer for _, answer in rows])
    rows = [row for row, is_sound in zip(rows, sound, strict=True) if is_sound]
    texts = [*rows, *known]
    read = model.read_rows([prompt for prompt, _ in texts], [answer for _, answer in texts], *reading)
    with torch.no_grad():
        features = model.row_features(*(torch.tensor(values) for values in read)).double().numpy()
    spread = None
    if hasattr(model, "disagreement"):
        own = (values[: len(rows)] for values in read)
        spread = model.disagreement(*own, *([row[i] for row in rows] for i in range(2)))
    return Candidates(model.category, rows, features[: len(rows)], features[len(rows) :], spread)


def choose(candidates: Sequence[Candidates], count: int, by: By, seed: int) -> Queue:
    """Choose the completions that people should label.

    The reward heads of the categories share no weights, so that log det of the information about all of them is the sum
    over the heads, and the greedy choice over all categories takes the largest growths of the choices within each.

    Args:
        candidates: of each category.
        count: rows to choose; all there are where they are fewer.
        by: `d_optimal` for the growth of log det, `random`, or `disagreement` for the spread of an ensemble's heads.
        seed: of random choices.

    Raises:
        ConfigError: there is no such way to choose, the count is not positive, or there is no ensemble that could
            disagree.
        DataError: there is nothing to choose from.
    """
    if by not in get_args(By):
        raise ConfigError(f"--by {by!r} is no way to choose; {nearest(by, get_args(By))}")
    if count < 1:
        raise ConfigError(f"--count is {count}; choose at least 1 completion")
    places = [(k, i) for k, own in enumerate(candidates) for i in range(len(own.rows))]
    if not places:
        raise DataError(
            "there is no completion left to label: every sampled completion of a training prompt was labelled before, "
            "or its reward is set by rule; sample more with completions.samples or completions.prompts"
        )
    generator = np.random.default_rng(seed)
    if by == "random":
        chosen = _drawn(places, count, generator)
    elif by == "disagreement":
        chosen = _largest(places, [_spread(own)[i] for own in candidates for i in range(len(own.rows))], count)
    else:
        choices = [greedy_d_optimal(own.features, count, own.known) for own in candidates]
        ordered = [(k, int(i)) for k, choice in enumerate(choices) for i in choice.rows]
        chosen = _largest(ordered, [float(g) for choice in choices for g in choice.growth], count)
    draws = [growth_of(candidates, _drawn(places, count, generator)) for _ in range(_RANDOM_DRAWS)]
    rows = [(candidates[k].category, *candidates[k].rows[i]) for k, i in chosen]
    return Queue(rows, growth_of(candidates, chosen), float(np.mean(draws)), len(places))


def growth_of(candidates: Sequence[Candidates], places: Sequence[tuple[int, int]]) -> float:
    """Return by how much log det of the information grows with some rows, in nats, summed over the categories.

    Args:
        candidates: of each category.
        places: number of the category and of the row within it.
    """
    by_category: dict[int, list[int]] = {}
    for k, i in places:
        by_category.setdefault(k, []).append(i)
    return sum(information_growth(candidates[k].features[rows], candidates[k].known) for k, rows in by_category.items())


def write_queue(queue: Queue, path: Path) -> None:
    """Write the file that people fill in; its column `label` is empty.

    Args:
        queue: the chosen completions.
        path: a file that does not exist, ending in .csv or .jsonl.

    Raises:
        DataError: it exists, has another ending, or cannot be written.
    """
    if path.suffix not in ENDINGS:
        raise DataError(f"{path}: a file to fill in ends in {' or '.join(ENDINGS)}; rename it")
    rows = [
        dict(zip(COLUMNS, (prompt, completion, "", category, " / ".join(LABELS)), strict=True))
        for category, prompt, completion in queue.rows
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Spreadsheets take a csv file for UTF-8 by its mark alone. Labels that somebody wrote are never overwritten.
        with path.open("x", encoding="utf-8-sig" if path.suffix == ".csv" else "utf-8", newline="") as file:
            file.write(_csv(rows) if path.suffix == ".csv" else "".join(f"{_line(row)}\n" for row in rows))
    except FileExistsError as error:
        raise DataError(f"{path} exists, and may hold labels; give another name with --out") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}); give another place with --out"
        ) from error


def _pools(graph: Graph, model: str) -> list[str]:
    """Return the completion pools that a reward model learns from: the first one, and those of the rounds before it."""
    from drirl_core.graph.rounds import ROUND_POOLS

    inputs = [graph.nodes[name] for name in graph.nodes[model].inputs if name in graph.nodes]
    return [node.name for stage in ("completion_pool", *ROUND_POOLS) for node in inputs if node.stage == stage]


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n")


def _line(row: Mapping[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _drawn(places: Sequence[tuple[int, int]], count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    return [places[i] for i in generator.permutation(len(places))[:count]]


def _largest(places: Sequence[tuple[int, int]], values: Sequence[float], count: int) -> list[tuple[int, int]]:
    """Return the places of the largest values, in falling order; of equal values the first comes first."""
    order = sorted(range(len(places)), key=lambda n: -values[n])
    return [places[n] for n in order[:count]]


def _spread(candidates: Candidates) -> np.ndarray:
    if candidates.spread is None:
        raise ConfigError(
            f"--by disagreement compares the heads of an ensemble, and the reward model of {candidates.category} has "
            "one head; set rewards.ensemble to 5 and run again, or choose --by d_optimal"
        )
    return candidates.spread
