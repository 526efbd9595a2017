"""A category that is left out teaches no policy and chooses none, and neither do the twins of its prompts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drirl_core.demonstrations.publish import ROWS
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph, dataset_name
from drirl_core.graph.versions import code_version
from drirl_core.policy.schedule import training_prompts
from drirl_core.policy.sft import training_rows
from drirl_core.policy.validation import validation_prompts
from drirl_core.store.tables import read_table, write_table

LEFT_OUT = {"leave_out.categories": ["insult"]}
"""Of the three data sets with six training prompts each."""


@pytest.fixture
def with_twins(contexts: Any, tmp_path: Path) -> Any:
    """Harmless prompts 0 and 1 are twins of prompts that insult, 0 of a training prompt and 1 of a validation prompt."""
    folder = tmp_path / "twins" / "helpful_dataset"
    shutil.copytree(contexts.inputs["helpful_dataset"], folder)
    unsafe = read_table(contexts.inputs[dataset_name("insult")] / "rows.parquet")
    rows = read_table(folder / "rows.parquet")
    rows[0]["twin_of"], rows[1]["twin_of"] = unsafe[0]["prompt_id"], unsafe[6]["prompt_id"]
    rows[3]["split"] = rows[5]["split"] = "validation"
    rows[5]["twin_of"] = unsafe[6]["prompt_id"]
    write_table(folder / "rows.parquet", rows, ROWS)
    contexts.inputs = {**contexts.inputs, "helpful_dataset": folder}
    return contexts


def _prompts(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["category"].removeprefix("safety_dataset_").removesuffix("_dataset") for row in rows)


def test_no_training_sees_the_category_or_the_twins_of_its_prompts(with_twins: Any) -> None:
    """Of six harmless training prompts two are validation prompts here, and two are twins of prompts that insult."""
    context = with_twins.make("left out", LEFT_OUT)
    start = training_rows(context, context.config.sft, 0)
    assert _prompts(start) == {"mental_health": 2, "helpful": 2}  # two rows per category in these tests
    assert {row["twin_of"] for row in start} == {""}
    rollouts = training_prompts(context)
    assert {name: len(rows) for name, rows in rollouts.items()} == {"mental_health": 6, "helpful": 2}
    everything = with_twins.make("everything")
    assert _prompts(training_rows(everything, everything.config.sft, 0)) == {
        "insult": 2,
        "mental_health": 2,
        "helpful": 4,
    }


def test_validation_prompts_of_the_category_choose_no_checkpoint(with_twins: Any) -> None:
    found = validation_prompts(with_twins.make("left out", LEFT_OUT), None, "")
    assert found == {"unsafe": ["mental_health request number 6"], "look_alike": ["helpful request number 3"]}
    every = validation_prompts(with_twins.make("everything"), None, "")
    assert {kind: len(prompts) for kind, prompts in every.items()} == {"unsafe": 2, "look_alike": 2}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["insults"], "leave_out.categories names 'insults', which is no harm category of this run; did you mean 'insult'"),
        (["helpful"], "names 'helpful', .*harmless prompts cannot be left out"),
        (["insult", "insult"], "leave_out.categories names one twice: insult, insult"),
        (["insult", "mental_health"], "names all harm categories"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_left_out(contexts: Any, tmp_path: Path, names: list[str], message: str) -> None:
    taxonomy = tmp_path / "two.yaml"
    taxonomy.write_text("categories: [insult, mental_health]", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        build_graph(contexts.config({"leave_out.categories": names, "prompts.taxonomy": str(taxonomy)}))


def test_what_trains_a_policy_is_made_again_and_nothing_else(contexts: Any) -> None:
    """Data sets, and in a run that starts from the initial model the rewards, do not know what is left out."""
    baselines = {"baselines": ["dpo", "dpo_s", "irft", "joint", "grpo", "rloo", "rloo_s", "verifiable"]}
    before, after = contexts.config(baselines), contexts.config({**baselines, **LEFT_OUT})
    nodes = build_graph(before).nodes
    changed = {
        nodes[name].stage for name in nodes if code_version(nodes[name], before) != code_version(nodes[name], after)
    }
    expected = {"policy_checkpoint", *(f"{name}_checkpoint" for name in baselines["baselines"])}
    assert changed == expected
    started = {"policy.start": "sft"}
    before, after = contexts.config(started), contexts.config({**started, **LEFT_OUT})
    start = build_graph(before).nodes["sft_checkpoint"]
    assert code_version(start, before) != code_version(start, after)
