"""Twins: a harmless prompt is in the split of the unsafe prompt it is a minimal edit of."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import dataset_inputs
import pyarrow as pa
import pytest
from dataset_inputs import DatasetInputs, pool_row, prompt

from drirl_core import taxonomy
from drirl_core.config import Config, ModelsConfig
from drirl_core.demonstrations.stage import build_dataset
from drirl_core.demonstrations.twins import UnsafePrompts, find_sides, read_unsafe
from drirl_core.graph.build import Context
from drirl_core.graph.layout import build_graph, source_path
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import prompt_id, read_table, write_table
from drirl_core.taxonomy import SEVEN_CATEGORIES

REFUSALS = [{"refusal": "I'm sorry, but I can't help with that."}]
POOL = UnsafePrompts(
    {}, {"u": "g1", "v": "g2", "w": "g3", "x": "g4"}, {"g1": "test", "g2": "train", "g3": "validation"}
)


def row(name: str, twin_of: str = "") -> dict[str, str]:
    return {"prompt_id": name, "twin_of": twin_of}


def test_twins_follow_their_prompts_and_near_duplicates_follow_twins() -> None:
    """Row 1 resembles row 0, whose twin is for testing; row 3's twin is in no data set; row 4 has no twin."""
    rows = [row("a", "u"), row("b"), row("c", "v"), row("d", "x"), row("e")]
    sides = find_sides(rows, [0, 0, 2, 3, 4], POOL)
    assert sides.group == ("g1", "g1", "g2", "g4", "e")
    assert sides.split == {"g1": "test", "g2": "train"}
    assert sides.torn == (False,) * 5


def test_two_rows_that_resemble_each_other_cannot_follow_twins_in_two_splits() -> None:
    """The group is in the training split, the first of the three, so that the rows of the other two are torn."""
    rows = [row("a", "u"), row("b", "v"), row("c", "w"), row("d"), row("e", "x")]
    sides = find_sides(rows, [0, 0, 0, 0, 0], POOL)
    assert set(sides.group) == {"g1"}
    assert sides.split == {"g1": "train"}
    assert sides.torn == (True, False, True, False, False)


def test_a_prompt_is_found_by_its_id_and_by_its_wording(tmp_path: Path) -> None:
    """An id that two prompts have names neither."""
    pool = [pool_row(prompt(0), row_id="7"), pool_row(prompt(1), row_id="9"), pool_row(prompt(2), row_id="9")]
    write_table(
        tmp_path / "prompts.parquet", pool, pa.schema([(name, pa.string()) for name in dataset_inputs.POOL_COLUMNS])
    )
    unsafe = read_unsafe(tmp_path, {})
    assert (
        unsafe.find("7") == unsafe.find(f"  {prompt(0)} ") == unsafe.find(prompt_id(prompt(0))) == prompt_id(prompt(0))
    )
    assert [unsafe.find(reference) for reference in ("9", "", "unknown")] == [""] * 3
    assert unsafe.split == {}


def build_both(
    stage_inputs: DatasetInputs, run: str, **settings: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of `insult` and of the harmless set that was built after it, and the metadata of the latter."""
    unsafe = stage_inputs.context("insult", f"{run} unsafe", quota=0, **settings)
    build_dataset(unsafe)
    safe = stage_inputs.context(taxonomy.HELPFUL, f"{run} safe", quota=0, **settings)
    shown = build_dataset(dataclasses.replace(safe, inputs={**safe.inputs, "safety_dataset_insult": unsafe.out}))
    return read_table(unsafe.out / "rows.parquet"), read_table(safe.out / "rows.parquet"), shown


@pytest.fixture
def stage_inputs(tmp_path: Path) -> DatasetInputs:
    """Twenty unsafe prompts, ten with a twin, named by id or wording; a near duplicate of a twin; six other rows."""
    pool = [pool_row(prompt(key), row_id=f"id-{key}", style="curt") for key in range(20)]
    twins = [
        {
            "prompt": prompt(("twin", key)),
            "answer": f"It is {dataset_inputs.words(('answer', key), 9)}.",
            "kind": "look_alike",
            "style": "curt",
            "twin_of": f"id-{key}" if key % 2 else prompt(key),
        }
        for key in range(10)
    ]
    near = {
        **twins[3],
        "prompt": twins[3]["prompt"].replace("?", " now?"),
        "twin_of": "",
        "answer": "It is another one.",
    }
    lost = {**twins[3], "prompt": prompt("lost"), "twin_of": "id-99", "answer": "It is without a twin."}
    others = [
        {"prompt": prompt(("other", key)), "answer": f"It is {dataset_inputs.words(('other', key), 9)}."}
        for key in range(5)
    ]
    written = dataset_inputs.demonstrations(*range(20))
    return DatasetInputs(tmp_path, pool=pool, written=written, helpful=[*twins, near, lost, *others], refusals=REFUSALS)


def test_the_data_sets_keep_twins_in_one_split(stage_inputs: DatasetInputs) -> None:
    for seed in range(4):
        unsafe, safe, shown = build_both(
            stage_inputs, f"run {seed}", seed=seed, validation_fraction=0.3, test_fraction=0.3
        )
        split = {row["prompt_id"]: row["split"] for row in unsafe}
        twins = [row for row in safe if row["twin_of"]]
        assert len(twins) == shown["twins"] == 10
        assert {row["twin_of"] for row in twins} == {prompt_id(prompt(key)) for key in range(10)}
        assert all(row["split"] == split[row["twin_of"]] for row in twins)
        assert len(safe) == 17
        by_prompt = {row["prompt"]: row for row in safe}
        near = by_prompt[prompt(("twin", 3)).replace("?", " now?")]
        assert (near["split"], near["group_id"]) == (split[prompt_id(prompt(3))], prompt_id(prompt(3)))
        assert (near["twin_of"], near["style"]) == ("", "curt")
        sides: dict[str, set[str]] = {}
        for row in (*unsafe, *safe):
            sides.setdefault(row["group_id"], set()).add(row["split"])
        assert all(len(side) == 1 for side in sides.values())


def test_a_torn_row_goes_to_quarantine(stage_inputs: DatasetInputs) -> None:
    """Row 3's near duplicate names another prompt as its twin; some seed puts the two prompts into two splits."""
    stage_inputs.helpful[10]["twin_of"] = "id-15"
    torn = 0
    for seed in range(4):
        unsafe, safe, shown = build_both(
            stage_inputs, f"run {seed}", seed=seed, validation_fraction=0.3, test_fraction=0.3
        )
        split = {row["prompt_id"]: row["split"] for row in unsafe}
        apart = split[prompt_id(prompt(3))] != split[prompt_id(prompt(15))]
        assert len(safe) == 17 - apart
        assert shown["quarantined"] == apart
        assert all(row["split"] == split[row["twin_of"]] for row in safe if row["twin_of"])
        torn += apart
    assert torn


def test_a_quota_draws_harmless_rows_by_the_seed(stage_inputs: DatasetInputs) -> None:
    drawn = [build_both(stage_inputs, f"run {seed}", seed=seed, helpful_quota=8)[1] for seed in (0, 1)]
    assert [len(rows) for rows in drawn] == [8, 8]
    assert {row["prompt_id"] for row in drawn[0]} != {row["prompt_id"] for row in drawn[1]}


def test_the_graph_builds_the_harmless_set_after_those_of_the_harm_categories() -> None:
    nodes = build_graph(Config(models=ModelsConfig(policy="path:none", encoder="path:none"))).nodes
    assert {f"safety_dataset_{category}" for category in SEVEN_CATEGORIES} <= set(nodes["helpful_dataset"].inputs)


def embedded(name: str) -> list[dict[str, Any]]:
    config = Config(models=ModelsConfig(policy="path:none", encoder="path:none"))
    found = {"demonstrations": config.demonstrations.demonstrator.source, "helpful": config.demonstrations.helpful}
    path = source_path(found.get(name, config.prompts.sources[0]))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_embedded_data_give_data_sets_of_equal_size_without_quarantine(tmp_path: Path) -> None:
    """Two hundred rows per category and 2,450 harmless ones; no twin is lost and each is in its prompt's split."""
    prompts, written = embedded("prompts"), {row["prompt"] for row in embedded("demonstrations")}
    clean = {row["prompt"]: row for row in reversed(prompts) if row["prompt"] in written}  # the first of equal ones
    pool = [pool_row(r["prompt"], r["category"], row_id=r["id"], style=r["style"]) for r in clean.values()]
    folder = tmp_path / "pool"
    folder.mkdir()
    write_table(
        folder / "prompts.parquet", pool, pa.schema([(name, pa.string()) for name in dataset_inputs.POOL_COLUMNS])
    )
    empty = pa.schema([("prompt", pa.string()), ("category", pa.string())])
    write_table(folder / "quarantine.parquet", [], empty)
    config = Config(models=ModelsConfig(policy="path:none", encoder="path:none"), root=str(tmp_path / "store"))
    settings = config.demonstrations
    sources = {
        f"source_{s.name}": source_path(s) for s in (settings.demonstrator.source, settings.helpful, settings.refusals)
    }
    inputs: dict[str, Path] = {"prompt_pool": folder, **sources}
    split: dict[str, str] = {}
    for category in (*SEVEN_CATEGORIES, taxonomy.HELPFUL):
        out = tmp_path / category
        out.mkdir()
        context = Context(config, category, inputs, out, tmp_path, ArtifactStore(config.root), SilentReporter())
        shown = build_dataset(context)
        if category != taxonomy.HELPFUL:
            inputs[f"safety_dataset_{category}"] = out
            split |= {row["prompt_id"]: row["split"] for row in read_table(out / "rows.parquet")}
            assert (shown["rows"], shown["train"], shown["validation"], shown["test"]) == (200, 160, 20, 20)
        assert shown["quarantined"] == 0
    rows = read_table(tmp_path / taxonomy.HELPFUL / "rows.parquet")
    twins = [row for row in rows if row["twin_of"]]
    assert (len(rows), len(twins)) == (2450, 1400)
    assert len({row["group_id"] for row in rows}) == 2450, "two harmless prompts count as one"
    assert all(row["split"] == split[row["twin_of"]] for row in twins)
    assert Counter(row["split"] for row in twins) == {"train": 1120, "validation": 140, "test": 140}
    assert len({row["style"] for row in twins}) == 13
