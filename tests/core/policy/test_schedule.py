"""The prompts that are trained on, step by step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drirl_core.config import PolicyConfig, SftConfig
from drirl_core.demonstrations.publish import ROWS
from drirl_core.errors import ConfigError, DataError
from drirl_core.policy.grpo import grpo_arguments
from drirl_core.policy.schedule import schedule, training_prompts, with_room
from drirl_core.policy.sft import sft_arguments
from drirl_core.policy.tracking import Tracking
from drirl_core.policy.training import common_arguments
from drirl_core.store.tables import write_table


def _prompts(
    sizes: dict[str, int], kinds: tuple[str, ...] = ("general", "look_alike")
) -> dict[str, list[dict[str, Any]]]:
    return {
        category: [
            {
                "prompt_id": f"{category} {i}",
                "category": category,
                "kind": kinds[i % len(kinds)] if category == "helpful" else "unsafe",
            }
            for i in range(size)
        ]
        for category, size in sizes.items()
    }


def _steps(rows: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


SEVEN = {f"category_{i}": 5 for i in range(7)}


def test_a_step_of_eight_by_hand() -> None:
    """Half of 8 are harmless: 2 general and 2 look-alike; the other 4 alternate between the seven categories."""
    rows = schedule(
        _prompts({**SEVEN, "helpful": 6}), PolicyConfig(steps=7, prompts_per_step=8, helpful_share=0.5), seed=0
    )
    assert len(rows) == 56
    for step in _steps(rows, 8):
        assert Counter(row["kind"] for row in step) == {"unsafe": 4, "general": 2, "look_alike": 2}
        assert len({row["category"] for row in step}) == 5  # four harm categories and the helpful one
    assert Counter(row["category"] for row in rows if row["category"] != "helpful") == dict.fromkeys(
        SEVEN, 4
    )  # 28 rows, 4 of each


def test_a_category_uses_all_its_prompts_before_it_repeats_one() -> None:
    rows = schedule(
        _prompts({"a": 5, "helpful": 4}), PolicyConfig(steps=10, prompts_per_step=2, helpful_share=0.5), seed=3
    )
    shown = [row["prompt_id"] for row in rows if row["category"] == "a"]
    assert set(shown[:5]) == set(shown[5:]) == {f"a {i}" for i in range(5)}
    assert shown[:5] != shown[5:]  # each pass has another order


@given(
    categories=st.integers(1, 9),
    helpful=st.integers(0, 5),
    steps=st.integers(1, 6),
    size=st.integers(1, 12),
    share=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 5),
)
@settings(max_examples=60)
def test_properties(categories: int, helpful: int, steps: int, size: int, share: float, seed: int) -> None:
    sizes = {f"category_{i}": 1 + i for i in range(categories)} | ({"helpful": helpful} if helpful else {})
    how = PolicyConfig(steps=steps, prompts_per_step=size, helpful_share=share)
    rows = schedule(_prompts(sizes), how, seed)
    assert len(rows) == steps * size
    harmless = min(round(size * share), size - 1) if helpful else 0
    for step in _steps(rows, size):
        assert sum(row["category"] == "helpful" for row in step) == harmless
        harm = [row["category"] for row in step if row["category"] != "helpful"]
        assert harm  # every step has a harm prompt
        assert len(set(harm)) == min(categories, len(harm))  # as many categories as fit
    counts = Counter(row["category"] for row in rows if row["category"] != "helpful")
    assert max(counts.values()) - min(counts.get(f"category_{i}", 0) for i in range(categories)) <= 1  # they alternate
    assert schedule(_prompts(sizes), how, seed) == rows


def test_the_seed_changes_the_order_and_nothing_else() -> None:
    how = PolicyConfig(steps=5, prompts_per_step=7, helpful_share=0.0)
    first, second = (schedule(_prompts(SEVEN), how, seed) for seed in (0, 1))
    assert first != second
    assert sorted(row["prompt_id"] for row in first) == sorted(row["prompt_id"] for row in second)  # one complete pass


def test_look_alikes_without_general_prompts() -> None:
    rows = schedule(
        _prompts({"a": 3, "helpful": 3}, kinds=("look_alike",)),
        PolicyConfig(steps=2, prompts_per_step=4, helpful_share=0.5),
        0,
    )
    assert Counter(row["kind"] for row in rows) == {"unsafe": 4, "look_alike": 4}


# ----------------------------------------------------------------------------------------------------- training prompts


def test_training_prompts_are_those_of_categories_with_a_reward_model(contexts: Any) -> None:
    found = training_prompts(contexts.make("run"))
    assert sorted(found) == ["helpful", "insult", "mental_health"]
    assert all(len(rows) == 6 for rows in found.values())
    first = found["insult"][0]
    assert first["prompt"] == [{"role": "user", "content": "insult request number 0"}]
    assert first["demonstration"].startswith("I will not help")  # the answer, without its draft
    assert set(first) == {"prompt", "category", "prompt_id", "demonstration", "kind"}


def test_a_data_set_without_training_rows_is_named(contexts: Any, tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", [], ROWS)
    context = contexts.make("run")
    context = dataclasses.replace(context, inputs={**context.inputs, "safety_dataset_insult": tmp_path})
    with pytest.raises(DataError, match=r"safety_dataset_insult has no training rows; raise demonstrations\.quota"):
        training_prompts(context)


# ------------------------------------------------------------------------------------------------------------ arguments


def test_settings_are_translated_to_trl(tmp_path: Path) -> None:
    common = common_arguments(0, tmp_path, "cpu", Tracking())
    how = PolicyConfig(
        steps=5, prompts_per_step=6, num_generations=4, micro_batch=8, kl=0.1, num_iterations=2, save_steps=3
    )
    made = grpo_arguments(how, common)
    assert (made.max_steps, made.save_steps) == (10, 6)  # optimiser steps; checkpoints lie between generations
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (8, 3)
    assert (made.generation_batch_size, made.steps_per_generation, made.num_generations) == (24, 3, 4)
    assert (made.beta, made.num_iterations, made.scale_rewards, made.shuffle_dataset) == (0.1, 2, "group", False)
    undivided = grpo_arguments(PolicyConfig(prompts_per_step=6, num_generations=4), common)
    assert (undivided.per_device_train_batch_size, undivided.gradient_accumulation_steps) == (24, 1)


def test_unsafe_prompts_are_drawn_by_category_or_by_row() -> None:
    """Nine prompts of one category and three of another: in turn six of each, by row each prompt once."""
    prompts = _prompts({"insult": 9, "mental_health": 3})
    for draw, expected in (("categories", (6, 6)), ("rows", (9, 3))):
        how = PolicyConfig(steps=3, prompts_per_step=4, helpful_share=0.0, draw=draw)  # type: ignore[arg-type]
        drawn = Counter(row["category"] for row in schedule(prompts, how, 0))
        assert (drawn["insult"], drawn["mental_health"]) == expected


def test_warm_up_and_checkpoints_count_steps_and_not_batches(tmp_path: Path) -> None:
    """410 rows in batches of 4 are 103 batches; four to a step, 26 steps: a warm-up of 2, a checkpoint after 13."""
    common = common_arguments(0, tmp_path, "cpu", Tracking())
    batches = sft_arguments(SftConfig(batch_size=4), 410, 64, common)
    summed = SftConfig(batch_size=4, trl={"gradient_accumulation_steps": 4})
    steps = sft_arguments(summed, 410, 64, common)
    assert (batches.warmup_steps, batches.save_steps) == (10, 52)
    assert (steps.warmup_steps, steps.save_steps) == (2, 13)
    with pytest.raises(ConfigError, match=r"sft\.trl\.gradient_accumulation_steps is 'four'"):
        sft_arguments(SftConfig(trl={"gradient_accumulation_steps": "four"}), 410, 64, common)
    with pytest.raises(ConfigError, match=r"sft\.trl\.gradient_accumulation_steps is 0; at least 1"):
        sft_arguments(SftConfig(trl={"gradient_accumulation_steps": 0}), 410, 64, common)


def test_prompts_that_leave_no_room_are_left_out_and_named() -> None:
    """One token per character and none from the template: 10 of them and 2 new ones fill 12."""

    class Characters:
        def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
            return messages[-1]["content"]

        def __call__(self, text: str, **_: object) -> dict[str, list[str]]:
            return {"input_ids": list(text)}

    def row(text: str, name: str) -> dict[str, object]:
        return {"prompt": [{"role": "user", "content": text}], "prompt_id": name}

    prompts = {"insult": [row("x" * 10, "fits"), row("x" * 11, "long")], "helpful": [row("x", "short")]}
    kept, left_out = with_room(prompts, Characters(), 2, 12)
    assert [one["prompt_id"] for one in kept["insult"]] == ["fits"]
    assert left_out == ["insult/long"]
    assert with_room(prompts, Characters(), 2, None) == (prompts, [])
    with pytest.raises(
        DataError, match=r"all 2 training prompts of insult leave no room .* with 3 new tokens .*first: fits"
    ):
        with_room(prompts, Characters(), 3, 12)
