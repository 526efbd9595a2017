"""The file of a study: which cells, which seeds, which questions; all of it checked before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.measure import ALIGNED
from drirl_core.completions.policies import INITIAL, SFT_START
from drirl_core.config import BaseConfig, Config, load_config
from drirl_core.config.place import find_config
from drirl_core.config.reading import absolute_path, anchor_paths, build, require
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.errors import ConfigError, nearest
from drirl_core.graph.policies import POLICIES
from drirl_core.runs.record import check_name

_CELL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_OF_TRAININGS = ("policy.seed", "dpo.seed")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True)
class QuestionConfig:
    """A comparison of two policies over the same prompts."""

    ask: str
    """The question, as the page shows it; the answer is yes when the first policy is better."""
    first: str
    """A policy: the name of a cell for its aligned policy, or `cell/policy` for another one of it (base, sft, ...)."""
    second: str
    """The policy to compare with."""


@dataclass(frozen=True)
class Cell:
    """One configuration and seed of a study.

    Args:
        name: of the cell.
        seed: of this repetition.
        changes: settings by dotted name that differ from the base file.
        result: name under which its run is recorded.
        config: its configuration.
    """

    name: str
    seed: int
    changes: Mapping[str, Any]
    result: str
    config: Config

    @property
    def label(self) -> str:
        """How people read it."""
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A study that can be run.

    Args:
        name: shown on its page.
        file: where it was read from.
        base: the configuration that its cells change.
        seeds: of each cell.
        cells: every cell with every seed; the seeds of a cell follow each other.
        questions: what is compared.
    """

    name: str
    file: Path
    base: Path
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    questions: tuple[QuestionConfig, ...]

    @property
    def names(self) -> list[str]:
        """Names of the cells, in the order of the file."""
        return list(dict.fromkeys(cell.name for cell in self.cells))


@dataclass(frozen=True)
class StudyConfig:
    """The keys of a study file."""

    base: str
    """Configuration file that every cell changes, relative to the study file."""
    name: str = "study"
    """Name of the study; the results of its cells begin with it."""
    seeds: tuple[int, ...] = (0,)
    """Every cell is run with each of them."""
    seed_settings: tuple[str, ...] = _OF_TRAININGS
    """Settings that a seed goes to. Those of the trainings alone leave data, start and rewards unchanged, so that
    a further seed costs only the policies; `seed` repeats everything."""


def read_study(path: Path, only: Sequence[str] = ()) -> Study:
    """Read a study file and check every cell.

    Args:
        path: the YAML file, in the working directory or the project.
        only: names of cells to keep; none for all.

    Returns:
        The study, with the configuration of every cell.

    Raises:
        ConfigError: the file is missing or wrong, a setting of a cell is not valid, two cells are the same or have the
            same name, or a question names an unknown cell.
    """
    file = find_config(path).absolute()
    loaded = read_yaml(file, "study file")
    require(isinstance(loaded, dict), f"study file {file} must hold keys and values, not {type(loaded).__name__}")
    own = {"settings", "cells", "matrix", "questions"}
    known = [*(field.name for field in dataclasses.fields(StudyConfig)), *sorted(own)]
    for key in loaded:
        require(key in known, f"study file {file}: unknown key {key!r}; {nearest(str(key), known)}")
    found: StudyConfig = build(StudyConfig, {key: value for key, value in loaded.items() if key not in own})
    check_name(found.name)
    require(bool(found.seeds), "seeds is empty; give at least one")
    require(len(set(found.seeds)) == len(found.seeds), f"seeds names one twice: {', '.join(map(str, found.seeds))}")
    require(min(found.seeds) >= 0, f"seeds has {min(found.seeds)}; at least 0")
    require(bool(found.seed_settings), "seed_settings is empty; name the settings that a seed goes to, such as seed")
    base = Path(absolute_path(found.base, file.parent, file.resolve().parent))
    shared = _settings(loaded.get("settings"), "settings", file)
    changes = _cells(loaded, file)
    _check_seeds(found, {"settings": shared, **changes})
    cells = tuple(
        _cell(found, base, name, seed, {**shared, **own_changes})
        for name, own_changes in changes.items()
        for seed in found.seeds
    )
    _check_distinct(cells)
    configs = {cell.name: cell.config for cell in cells}
    questions = tuple(_question(row, i, configs) for i, row in enumerate(_rows(loaded.get("questions"), file)))
    for name in only:
        require(name in changes, f"--cell {name!r} is no cell of {file.name}; {nearest(name, changes)}")
    kept = tuple(cell for cell in cells if not only or cell.name in only)
    return Study(found.name, file, base, found.seeds, kept, questions)


def policy_of(text: str) -> tuple[str, str]:
    """Split the name of a policy in a question into its cell and its name in the results of that cell."""
    cell, _, policy = text.partition("/")
    return cell, policy or ALIGNED


def _cells(loaded: Mapping[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """Return the changes of every cell: those that are named, and every combination of the matrix."""
    listed, matrix = loaded.get("cells") or {}, loaded.get("matrix") or {}
    for key, value in (("cells", listed), ("matrix", matrix)):
        require(isinstance(value, dict), f"study file {file}: {key} is {value!r}; give keys and values")
    found = {str(name): _settings(changes, f"cells.{name}", file) for name, changes in listed.items()}
    apart = next((name for name, changes in found.items() if {"root", "mirror"} & {*changes}), None)
    require(apart is None, f"cells.{apart} has a store of its own; all cells share one: set root under settings")
    for key, values in matrix.items():
        require(
            isinstance(values, list) and bool(values),
            f"study file {file}: matrix.{key} is {values!r}; give a list of values of this setting",
        )
    keys = list(matrix)
    for values in itertools.product(*(matrix[key] for key in keys)) if matrix else ():
        changes = _settings(dict(zip(keys, values, strict=True)), "matrix", file)
        name = "-".join(
            f"{key.rpartition('.')[2]}_{_NOT_IN_NAMES.sub('_', str(value)).strip('_')}"
            for key, value in zip(keys, values, strict=True)
        )
        require(name not in found, f"study file {file}: two cells are called {name!r}; name one of them under cells")
        found[name] = changes
    require(bool(found), f"study file {file} has no cell; list at least one under cells, such as `dr_irl: {{}}`")
    policies = {*POLICIES} - {ALIGNED}
    for name in found:
        require(bool(_CELL.match(name)), f"cell {name!r}: use letters, digits, '.', '_' and '-'")
        require(
            name not in policies,
            f"cell {name!r} has the name of a policy, which the tables show too; call it {name}_cell, say",
        )
    return found


def _settings(given: Any, where: str, file: Path) -> dict[str, Any]:
    """Check the settings of a cell as `--set` would take them."""
    require(given is None or isinstance(given, dict), f"study file {file}: {where} is {given!r}; give settings")
    sections = {field.name for field in dataclasses.fields(Config) if field.name not in ("name", "seed", "baselines")}
    sections -= {"root", "mirror"}
    settings = {str(key): value for key, value in (given or {}).items()}
    for key in settings:
        require(
            key not in sections,
            f"study file {file}: {where}.{key} would replace the complete section {key}; name one setting, such as "
            f"{key}.NAME",
        )
        require(key != "name", f"study file {file}: {where}.name is decided by the cell; leave it out")
    changed = {key: {key.rpartition(".")[2]: value} for key, value in settings.items()}
    anchor_paths(changed, file.parent, file.resolve().parent)
    return {key: next(iter(value.values())) for key, value in changed.items()}


def _check_seeds(found: StudyConfig, places: Mapping[str, Mapping[str, Any]]) -> None:
    for where, changes in places.items():
        both = [key for key in found.seed_settings if key in changes]
        require(not both, f"{where} sets {', '.join(both)}, which the seeds of the study decide; leave it out of one")


def _cell(found: StudyConfig, base: Path, name: str, seed: int, changes: Mapping[str, Any]) -> Cell:
    result = f"{found.name}-{name}-s{seed}"
    try:
        check_name(result)
    except ConfigError as error:
        raise ConfigError(
            f"the cell {name!r} gives results called {result!r}, which cannot be: shorten the name of the study, or "
            f"name the cell under cells ({error})"
        ) from error
    try:
        own = load_config(base, {**changes, "name": result}).seed
        # A training whose seed is that of the run is the one that the run would have without a seed of its own.
        shared = "seed" not in found.seed_settings and seed == own
        every = {**changes, **{key: -1 if shared and key in _OF_TRAININGS else seed for key in found.seed_settings}}
        config = load_config(base, {**every, "name": result})
    except ConfigError as error:
        raise ConfigError(f"cell {name!r} of the study: {error}") from error
    return Cell(name, seed, every, result, config)


def _check_distinct(cells: Sequence[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        key = repr(dataclasses.replace(cell.config, name="any", base=BaseConfig()))
        require(
            key not in seen,
            f"the cells {seen.get(key, '')!r} and {cell.label!r} have the same settings; take one of them out",
        )
        seen[key] = cell.label


def _rows(given: Any, file: Path) -> list[Any]:
    require(given is None or isinstance(given, list), f"study file {file}: questions is {given!r}; give a list")
    return list(given or ())


def _question(row: Any, place: int, cells: Mapping[str, Config]) -> QuestionConfig:
    question: QuestionConfig = build(QuestionConfig, row, f"questions[{place}]")
    for side in (question.first, question.second):
        cell, policy = policy_of(side)
        require(cell in cells, f"questions[{place}]: {side!r} names no cell; {nearest(cell, cells)}")
        config = cells[cell]
        start = [SFT_START] if config.policy.start == "sft" else []
        policies = [INITIAL, *start, *config.baselines, ALIGNED]
        require(
            policy in policies,
            f"questions[{place}]: the cell {cell} trains no {policy!r}; it has {', '.join(policies)}, and "
            "`baselines` adds others",
        )
    require(
        policy_of(question.first) != policy_of(question.second),
        f"questions[{place}] compares {question.first} with itself",
    )
    return question
