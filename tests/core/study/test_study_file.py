"""A study file becomes checked cells; what contradicts itself is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph
from drirl_core.study.file import read_study
from drirl_core.taxonomy import SEVEN_CATEGORIES


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump({"name": "base", "models": {"policy": "hf:a/b", "encoder": "hf:a/c"}, "policy": {"steps": 5}})
    )

    def written(**keys: Any) -> Path:
        file = tmp_path / "study.yaml"
        document = {"name": "s", "base": "base.yaml", "cells": {"a": {}}, **keys}
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    return written


def test_every_cell_comes_with_every_seed(write) -> None:
    study = read_study(write(cells={"a": {}, "b": {"hardness.combine": "shuffled"}}, seeds=[0, 3]))
    assert [(cell.name, cell.seed, cell.result) for cell in study.cells] == [
        ("a", 0, "s-a-s0"), ("a", 3, "s-a-s3"), ("b", 0, "s-b-s0"), ("b", 3, "s-b-s3"),
    ]  # fmt: skip
    last = study.cells[-1].config
    assert (last.policy.seed, last.dpo.seed, last.seed, last.policy.steps) == (3, 3, 0, 5)
    assert study.cells[0].config.policy.seed == -1, "the seed of the run: a demo that was run before is reused"
    assert (last.hardness.combine, last.name) == ("shuffled", "s-b-s3")


def test_settings_of_all_cells_are_changed_by_those_of_one(write) -> None:
    study = read_study(write(settings={"policy.steps": 2, "policy.kl": 0.5}, cells={"a": {}, "b": {"policy.steps": 9}}))
    assert [(cell.config.policy.steps, cell.config.policy.kl) for cell in study.cells] == [(2, 0.5), (9, 0.5)]


def test_a_matrix_gives_every_combination_beside_the_cells(write) -> None:
    matrix = {"hardness.combine": ["none", "sum"], "demonstrations.quota": [0, 20]}
    assert read_study(write(matrix=matrix)).names == [
        "a", "combine_none-quota_0", "combine_none-quota_20", "combine_sum-quota_0", "combine_sum-quota_20",
    ]  # fmt: skip


def test_a_further_seed_leaves_all_but_the_trainings_as_they_are(write) -> None:
    from drirl_core.graph.versions import code_version
    from drirl_core.project import Project

    first, second = (
        Project(cell.config) for cell in read_study(write(seeds=[0, 1], settings={"baselines": ["dpo"]})).cells
    )
    moved = {
        name
        for name, node in first.graph.nodes.items()
        if code_version(node, first.config, {}) != code_version(node, second.config, {})
    }
    assert moved == {"policy_checkpoint", "dpo_checkpoint", "report", "model_card"}


def test_relative_paths_start_at_the_study_file(write, tmp_path: Path) -> None:
    study = read_study(write(cells={"a": {"prompts.taxonomy": "own.yaml"}}))
    assert study.cells[0].config.prompts.taxonomy == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"cellz": {}}, r"unknown key 'cellz'; did you mean 'cells'"),
        ({"cells": {}}, "has no cell"),
        ({"cells": {"a": {"hardness": {"combine": "none"}}}}, r"replace the complete section hardness"),
        ({"cells": {"a": {"hardness.combin": "none"}}}, r"cell 'a' of the study: unknown key 'hardness.combin'"),
        ({"cells": {"a": {"policy.steps": 0}}}, r"cell 'a' of the study: policy.steps"),
        ({"cells": {"a": {}, "b": {}}}, r"the cells 'a, seed 0' and 'b, seed 0' have the same settings"),
        ({"cells": {"a b": {}}}, r"cell 'a b': use letters"),
        ({"cells": {"a": {"name": "x"}}}, "name is decided by the cell"),
        ({"cells": {"a" * 70: {}}}, "at most 63"),
        ({"cells": {"a": {"policy.seed": 4}}}, r"a sets policy.seed, which the seeds of the study decide"),
        ({"cells": ["a"]}, r"cells is \['a'\]; give keys and values"),
        ({"matrix": {"policy.kl": 3}}, "matrix.policy.kl is 3; give a list"),
        ({"matrix": {"policy.kl": [0.1, 0.1]}}, "two cells are called 'kl_0.1'"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "seeds names one twice"),
        ({"seeds": [-1]}, "seeds has -1"),
        ({"seed_settings": []}, "seed_settings is empty"),
        ({"base": "none.yaml"}, "does not exist"),
        ({"name": "a/b"}, "use letters, digits"),
        ({"questions": [{"ask": "?", "first": "a", "second": "c"}]}, r"questions\[0\]: 'c' names no cell"),
        ({"questions": [{"ask": "?", "first": "a", "second": "a/ppo"}]}, r"the cell a trains no 'ppo'; it has base, sft"),
        ({"questions": [{"ask": "?", "first": "a", "second": "a/dpo"}]}, r"the cell a trains no 'dpo'"),
        ({"cells": {"base": {}}}, "'base' has the name of a policy"),
        ({"cells": {"grpo": {}}}, "'grpo' has the name of a policy"),
        ({"cells": {"best_of_n": {}}}, "'best_of_n' has the name of a policy"),
        ({"questions": [{"ask": "?", "first": "a", "second": "a/best_of_n"}]}, r"the cell a trains no 'best_of_n'"),
        ({"cells": {"a": {"root": "x"}}}, "cells.a has a store of its own"),
        ({"questions": [{"ask": "?", "first": "a", "second": "a/dr_irl"}]}, "compares a with itself"),
        ({"questions": [{"ask": "?", "first": "a"}]}, r"missing questions\[0\].second"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(write, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_study(write(**keys))


def test_a_question_may_name_a_baseline_without_weights(write) -> None:
    question = {"ask": "Does training beat a choice?", "first": "a", "second": "a/best_of_n"}
    study = read_study(write(cells={"a": {"baselines": ["best_of_n"]}}, questions=[question]))
    assert study.questions[0].second == "a/best_of_n"


def test_one_cell_can_be_chosen(write) -> None:
    file = write(cells={"a": {}, "b": {"policy.kl": 0.5}}, questions=[{"ask": "?", "first": "a", "second": "b"}])
    assert read_study(file, ["b"]).names == ["b"]
    with pytest.raises(ConfigError, match="--cell 'c' is no cell"):
        read_study(file, ["c"])


def test_the_shipped_study_of_balance_compares_equally_many_rows() -> None:
    data = {cell.name: cell.config.demonstrations for cell in read_study(Path("configs/balance.yaml")).cells}
    rows = {name: [found.quota_of(category) for category in SEVEN_CATEGORIES] for name, found in data.items()}
    assert {name: sum(counts) for name, counts in rows.items()} == {"balanced": 700, "unbalanced": 700}
    assert (max(rows["unbalanced"]), min(rows["unbalanced"])) == (200, 25)


@pytest.mark.parametrize("name", ["study", "rounds", "balance", "leave_out"])
def test_the_shipped_studies_can_be_read(name: str) -> None:
    study = read_study(Path(f"configs/{name}.yaml"))
    for cell in study.cells:
        build_graph(cell.config)  # which refuses an unknown category
    assert len(study.cells) == len(study.names) * len(study.seeds)
    assert study.questions
