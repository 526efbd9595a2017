"""The comparison of twins: batches and loss by hand, and that it learns what likelihood alone does not."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from killing import assert_resumes
from safetensors.torch import load_file

from drirl_core.config import SftConfig
from drirl_core.demonstrations.publish import ROWS
from drirl_core.errors import ConfigError
from drirl_core.policy import twins as twins_module
from drirl_core.policy.sft import build_sft_checkpoint, training_rows
from drirl_core.policy.sft_rows import TokenRows, in_batches_of_one_length
from drirl_core.policy.training import read_log
from drirl_core.policy.twins import (
    MATCHED,
    TwinCollator,
    matching_loss,
    matching_margins,
    units_of,
)
from drirl_core.store.tables import read_table, write_table

pytestmark = pytest.mark.usefixtures("no_curves")
SETTINGS = {
    "sft.contrast": 1.0,
    "sft.batch_size": 6,
    "sft.epochs": 4,
    "sft.learning_rate": 5e-3,
    "sft.answer_tokens": 6,
    "sft.rows_per_category": 0,
}


def token_row(prompt: list[int], answer: list[int], pair: int = -1) -> dict[str, Any]:
    ids = [*prompt, *answer]
    return {"input_ids": ids, "labels": [-100] * len(prompt) + answer, "pair": pair}


def rows_named(*names: str) -> TokenRows:
    return TokenRows([{"input_ids": [len(name)], "completion_mask": [1]} for name in names], names, (), (), 9)


def test_pairs_come_first_and_each_row_once() -> None:
    """Of two safe rows with one twin the first counts; a twin that is not trained on makes no pair."""
    read = rows_named("u1", "s1", "u2", "s2", "other", "s1b", "lost", "u1")
    units = units_of(read, {"s1": "u1", "s1b": "u1", "s2": "u2", "lost": "gone"})
    assert [[row["pair"] for row in unit] for unit in units] == [[0, 0], [1, 1], [-1], [-1], [-1], [-1]]
    lengths = [[row["input_ids"][0] for row in unit] for unit in units]
    assert lengths == [[2, 2], [2, 2], [5], [3], [4], [2]]  # of the names: the copy of u1 stays alone


def test_pairs_stay_in_one_batch() -> None:
    units = [[token_row([1] * n, [2], n), token_row([1] * n, [2, 3], n)] for n in range(1, 8)]
    units += [[token_row([1] * n, [2])] for n in range(1, 6)]
    order = in_batches_of_one_length(units, 4, 0)
    for start in range(0, len(order), 4):
        numbers = [row["pair"] for row in order[start : start + 4] if row["pair"] >= 0]
        assert all(numbers.count(number) == 2 for number in numbers)
    assert len(order) == 19


def test_a_batch_by_hand() -> None:
    """Prompts 7 and 8 9 with the answers 1 2 and 3; a row alone in between; the crossed rows stand behind."""
    batch = TwinCollator(padding=0, limit=9)(
        [token_row([7], [1, 2], 5), token_row([6], [4]), token_row([8, 9], [3], 5)]
    )
    assert batch["pairs"].tolist() == [[0, 2]]
    assert batch["prompt_width"] == 2
    assert batch["input_ids"].tolist() == [[0, 7, 1, 2], [0, 6, 4, 0], [8, 9, 3, 0], [0, 7, 3, 0], [8, 9, 1, 2]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["position_ids"][0].tolist() == [0, 0, 1, 2]
    assert batch["labels"].tolist() == [
        [-100, -100, 1, 2], [-100, -100, 4, -100], [-100, -100, 3, -100], [-100, -100, 3, -100], [-100, -100, 1, 2],
    ]  # fmt: skip


def test_a_crossed_answer_that_does_not_fit_is_cut() -> None:
    batch = TwinCollator(padding=0, limit=4)([token_row([7], [1, 2, 3], 0), token_row([8, 9, 8], [4], 0)])
    assert batch["labels"][3].tolist()[3:] == [1, -100, -100]


def test_a_twin_whose_partner_is_in_another_batch_is_an_ordinary_row() -> None:
    batch = TwinCollator(padding=0, limit=9)([token_row([7], [1], 3), token_row([6], [4])])
    assert (batch["pairs"].shape, len(batch["input_ids"])) == ((0, 2), 2)


def test_the_loss_by_hand() -> None:
    """Own answers -1 and -2, crossed ones -3 and -4: the margin is 4, the loss log(1 + exp(-0.5 * 4))."""
    log_probs, pairs = torch.tensor([[-1.0], [-9.0], [-2.0], [-3.0], [-4.0]]), torch.tensor([[0, 2]])
    margins = matching_margins(log_probs, torch.ones_like(log_probs), pairs)
    assert margins.tolist() == [4.0]
    assert float(matching_loss(margins)) == pytest.approx(math.log1p(math.exp(-2.0)))


def test_the_first_tokens_alone_are_compared_by_hand() -> None:
    """Column 0 is prompt. Of two tokens per answer: own -1 -5 and -2 -7, crossed -4 -1 and -8 -1.

    All: -15 + 14 = -1. The first alone: -3 + 12 = 9; -100 stands where nothing is learned, and never counts.
    """
    log_probs = torch.tensor([[-100.0, -1.0, -5.0], [-100.0, -2.0, -7.0], [-100.0, -4.0, -1.0], [-100.0, -8.0, -1.0]])
    learned, pairs = torch.tensor([[0, 1, 1]] * 4), torch.tensor([[0, 1]])
    assert matching_margins(log_probs, learned, pairs).tolist() == [-1.0]
    assert matching_margins(log_probs, learned, pairs, compared=1).tolist() == [9.0]
    assert matching_margins(log_probs, learned, pairs, compared=2).tolist() == [-1.0]


def test_a_crossed_row_holds_the_compared_tokens_alone() -> None:
    batch = TwinCollator(padding=0, limit=9, compared=1)([token_row([7], [1, 2], 5), token_row([8, 9], [3, 4], 5)])
    assert batch["input_ids"].tolist() == [[0, 7, 1, 2], [8, 9, 3, 4], [0, 7, 3, 0], [8, 9, 1, 0]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]]


def test_rows_without_a_twin_stand_in_twos_beside_the_pairs() -> None:
    """By length: c (1), the copy of u1 and bb (2), aaa (3)."""
    names = ("u1", "s1", "aaa", "c", "u1", "bb")
    rows = [{"input_ids": [0] * len(name), "completion_mask": [1] * len(name)} for name in names]
    units = units_of(TokenRows(rows, names, (), (), 9), {"s1": "u1"}, mixed=True)
    assert [[row["pair"] for row in unit] for unit in units] == [[0, 0], [-1, -1], [-1, -1]]
    assert [[len(row["input_ids"]) for row in unit] for unit in units] == [[2, 2], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast": -1.0}, "sft.contrast is -1.0; 0"),
        ({"contrast": 1.0, "batch_size": 5}, "choose an even number"),
        ({"contrast": 1.0, "contrast_tokens": -1}, "sft.contrast_tokens is -1; 0"),
        ({"contrast_tokens": 6}, "sft.contrast is 0 and nothing is compared"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SftConfig(**settings)


@pytest.fixture
def with_twins(contexts: Any, tmp_path: Path) -> Any:
    """Every harmless row is the twin of an unsafe one, whose prompt differs from it in one word."""
    contexts.inputs = dict(contexts.inputs)
    unsafe = [
        row
        for name in sorted(contexts.inputs)
        if name.startswith("safety_dataset_")
        for row in read_table(contexts.inputs[name] / "rows.parquet")
    ]
    table = pd.read_parquet(contexts.inputs["helpful_dataset"] / "rows.parquet")
    table["twin_of"] = [row["prompt_id"] for row in unsafe][: len(table)]
    table["split"] = [row["split"] for row in unsafe][: len(table)]
    contexts.inputs["helpful_dataset"] = tmp_path / "helpful_with_twins"
    contexts.inputs["helpful_dataset"].mkdir()
    write_table(contexts.inputs["helpful_dataset"] / "rows.parquet", table.to_dict("records"), ROWS)
    return contexts


def test_twins_are_learned_to_be_told_apart(with_twins: Any) -> None:
    context = with_twins.make("twins", SETTINGS)
    assert build_sft_checkpoint(context)["twin_pairs"] == 6
    matched = [row[MATCHED] for row in read_log(context.out / "training_log.jsonl") if MATCHED in row]
    assert len(matched) >= 4
    assert matched[-1] == 1.0


def test_a_prompt_computed_once_for_both_answers_trains_the_same_weights(
    with_twins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = with_twins.make("shared", {**SETTINGS, "sft.epochs": 1})
    build_sft_checkpoint(shared)
    monkeypatch.setattr(twins_module, "prompts_once", lambda *_, **__: contextlib.nullcontext())
    apart = with_twins.make("apart", {**SETTINGS, "sft.epochs": 1})
    build_sft_checkpoint(apart)
    one, other = (load_file(context.out / "model.safetensors") for context in (shared, apart))
    assert all(torch.allclose(one[name], other[name], atol=2e-4) for name in one)


@pytest.mark.parametrize("seed", range(3))
def test_harmless_twins_of_the_chosen_unsafe_prompts_are_chosen_first(with_twins: Any, seed: int) -> None:
    """Two of six unsafe prompts with a twin, and two of six twins: draws that do not look for them find none with these seeds."""
    few = {"sft.rows_per_category": 2, "sft.helpful_rows": 2}
    pairs = {}
    for name, contrast in (("compared", 1.0), ("not compared", 0.0)):
        context = with_twins.make(name, {**SETTINGS, **few, "sft.contrast": contrast})
        rows = training_rows(context, context.config.sft, seed)
        chosen = {row["prompt_id"] for row in rows}
        assert len(rows) == 6
        pairs[name] = sum(row["twin_of"] in chosen for row in rows)
    assert pairs == {"compared": 2, "not compared": 0}


def test_comparing_as_many_tokens_as_an_answer_has_is_comparing_all_of_it(with_twins: Any) -> None:
    """Six are learned: six compared are all, one compared is another loss and other weights."""
    every, all_six, one = (
        with_twins.make(f"compared{count}", {**SETTINGS, "sft.epochs": 1, "sft.contrast_tokens": count})
        for count in (0, 6, 1)
    )
    for context in (every, all_six, one):
        build_sft_checkpoint(context)
    weights = [load_file(context.out / "model.safetensors") for context in (every, all_six, one)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])
    assert not all(torch.allclose(weights[0][name], weights[2][name], atol=1e-6) for name in weights[0])


def test_without_a_twin_the_start_learns_by_likelihood_alone_and_says_so(contexts: Any) -> None:
    losses, settings = [], {**SETTINGS, "sft.epochs": 1, "sft.batch_size": 18}
    for name, contrast in (("stock", 0.0), ("ours", 1.0)):
        context = contexts.make(name, {**settings, "sft.contrast": contrast})
        shown = build_sft_checkpoint(context)
        losses.append(shown["first_loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert shown["twin_pairs"] == 0
    assert any("no training row has its twin" in line for line in context.reporter.lines)


def test_the_loss_of_the_rows_is_that_of_stock_fine_tuning(with_twins: Any) -> None:
    """With a weight below rounding, the loss of the rows alone is left: TRL's own."""
    losses = []
    for name, contrast in (("stock", 0.0), ("ours", 1e-12)):
        context = with_twins.make(name, {**SETTINGS, "sft.contrast": contrast, "sft.epochs": 1, "sft.batch_size": 18})
        build_sft_checkpoint(context)
        losses.append(read_log(context.out / "training_log.jsonl")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_killed_run_resumes_to_the_same_weights(with_twins: Any) -> None:
    assert_resumes(with_twins, build_sft_checkpoint, {**SETTINGS, "sft.epochs": 2})
