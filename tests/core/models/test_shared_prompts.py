"""A prompt that several rows share goes through the decoder once, with the same result."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drirl_core.models import shared_prompts
from drirl_core.models.shared_prompts import prompts_once, start_once

WIDTH, GROUP, LENGTH = 7, 4, 5


@pytest.fixture
def model(tiny_policy: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_policy, attn_implementation="eager").eval()


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts, one padded on the left, with four completions each, in random order; one completion is shorter."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(5, 50, (3, WIDTH), generator=generator)
    mask = torch.ones(3, WIDTH, dtype=torch.long)
    mask[0, :3] = 0
    completions = torch.randint(5, 50, (3 * GROUP, LENGTH), generator=generator)
    ids = torch.cat([prompts.repeat_interleave(GROUP, 0), completions], 1)
    seen = torch.cat([mask.repeat_interleave(GROUP, 0), torch.ones(3 * GROUP, LENGTH, dtype=torch.long)], 1)
    seen[3, -2:] = 0
    order = torch.randperm(len(ids), generator=generator)
    return ids[order], seen[order]


def _hidden_and_gradients(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)
    hidden.pow(2).sum().backward()
    return hidden.detach(), [weight.grad.clone() for weight in model.model.parameters() if weight.grad is not None]


def _require_the_same(model: Any, batch: tuple[torch.Tensor, torch.Tensor], *blocks: Any) -> None:
    """Compare hidden states and gradients of a batch without and within the blocks."""
    hidden, gradients = _hidden_and_gradients(model, *batch)
    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        shared_hidden, shared_gradients = _hidden_and_gradients(model, *batch)
    torch.testing.assert_close(shared_hidden, hidden, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(shared_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_hidden_states_and_gradients_are_those_of_complete_rows(
    model: Any, rows: tuple[torch.Tensor, torch.Tensor]
) -> None:
    _require_the_same(model, rows, prompts_once(model, WIDTH))


def test_fewer_tokens_go_through_the_decoder(model: Any, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    """12 rows of 7 + 5 tokens are 144 tokens; 3 prompts of 7 and 12 completions of 5 are 81."""
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    model.model(input_ids=rows[0], attention_mask=rows[1])
    with prompts_once(model, WIDTH):
        model.model(input_ids=rows[0], attention_mask=rows[1])
    assert (sizes[0], sum(sizes[1:])) == (144, 81)


def test_generation_gives_the_same_tokens(model: Any, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    asked = {"input_ids": rows[0][:, :WIDTH], "attention_mask": rows[1][:, :WIDTH], "pad_token_id": 0}
    plain = model.generate(**asked, max_new_tokens=6, do_sample=False)
    with prompts_once(model):
        shared = model.generate(**asked, max_new_tokens=6, do_sample=False)
    assert torch.equal(plain, shared)


def test_rows_without_a_shared_prompt_are_unchanged_and_the_model_is_restored(
    model: Any, rows: tuple[torch.Tensor, torch.Tensor]
) -> None:
    ids, mask = torch.arange(24).reshape(3, 8), torch.ones(3, 8, dtype=torch.long)
    expected = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    with prompts_once(model, 4):
        assert torch.equal(model.model(input_ids=ids, attention_mask=mask).last_hidden_state, expected)
    assert "forward" not in vars(model.model)


START, NARROW = 9, 16


@pytest.fixture(params=["left", "right"])
def batch(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows of 16, 13, 16 and 11 tokens that begin with the same nine, padded on one side."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(4, NARROW, dtype=torch.long)
    mask = torch.zeros_like(ids)
    common = torch.randint(5, 50, (START,), generator=generator)
    for row, length in enumerate((16, 13, 16, 11)):
        own = torch.randint(5, 50, (length - START,), generator=generator)
        own[0] = 10 + row  # the first token that differs
        place = slice(NARROW - length, None) if request.param == "left" else slice(None, length)
        ids[row, place], mask[row, place] = torch.cat([common, own]), 1
    return ids, mask


def test_a_shared_start_changes_no_hidden_state_and_no_gradient(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    _require_the_same(model, batch, start_once(model))


def test_a_shared_start_goes_through_the_decoder_once(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """4 rows of 16 columns are 64; once 9 and 4 rows of 7 are 37."""
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    model.model(input_ids=batch[0], attention_mask=batch[1])
    with start_once(model):
        model.model(input_ids=batch[0], attention_mask=batch[1])
    assert (sizes[0], sum(sizes[1:])) == (64, 37)


@pytest.mark.parametrize("batch", ["left"], indirect=True)
@pytest.mark.parametrize("groups", [False, True])
def test_generation_from_a_shared_start_gives_the_same_tokens(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor], groups: bool
) -> None:
    ids, mask = (part.repeat_interleave(2, 0) if groups else part for part in batch)
    asked = {"input_ids": ids, "attention_mask": mask, "pad_token_id": 0, "max_new_tokens": 6, "do_sample": False}
    plain = model.generate(**asked)
    with start_once(model), prompts_once(model) if groups else contextlib.nullcontext():
        shared = model.generate(**asked)
    assert torch.equal(plain, shared)


@pytest.mark.parametrize("batch", ["left"], indirect=True)
def test_equal_rows_behind_a_shared_start_run_once_without_gradients(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Three samples of four prompts: 9 tokens and 4 rows of 7, then five steps of 12 rows; with gradients 12 of 7."""
    ids, mask = (part.repeat(3, 1) for part in batch)
    asked = {"input_ids": ids, "attention_mask": mask, "pad_token_id": 0, "max_new_tokens": 6, "do_sample": False}
    plain = model.generate(**asked)
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    with start_once(model):
        assert torch.equal(model.generate(**asked), plain)
        assert sizes == [9, 28, *[12] * 5]
        model.model(input_ids=ids, attention_mask=mask)
    assert sizes[-2:] == [9, 84]


@pytest.mark.parametrize("batch", ["left"], indirect=True)
def test_shared_start_and_shared_prompts_work_together(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Four prompts with two completions each: 9 + 4 * 7 tokens of prompts and 8 * 3 of completions."""
    completions = torch.randint(5, 50, (8, 3), generator=torch.Generator().manual_seed(2))
    ids = torch.cat([batch[0].repeat_interleave(2, 0), completions], 1)
    mask = torch.cat([batch[1].repeat_interleave(2, 0), torch.ones_like(completions)], 1)
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    _require_the_same(model, (ids, mask), start_once(model), prompts_once(model, NARROW))
    assert sizes[0] == 8 * (NARROW + 3)  # without sharing
    assert sum(sizes[1:]) == 9 + 28 + 24


def test_rows_without_a_shared_start_are_unchanged(model: Any, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Fewer than eight tokens in common, and a single row."""
    expected = model.model(input_ids=rows[0], attention_mask=rows[1]).last_hidden_state
    with start_once(model):
        assert torch.equal(model.model(input_ids=rows[0], attention_mask=rows[1]).last_hidden_state, expected)
        alone = model.model(input_ids=rows[0][:1], attention_mask=rows[1][:1]).last_hidden_state
    assert torch.equal(alone, model.model(input_ids=rows[0][:1], attention_mask=rows[1][:1]).last_hidden_state)
    assert "forward" not in vars(model.model)


@pytest.fixture
def cheap_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further pass costs nothing, so that every length has a tile of its own."""
    monkeypatch.setattr(shared_prompts, "_PASS_TOKENS", 0)


@pytest.mark.usefixtures("cheap_passes")
def test_rows_in_tiles_give_the_same_states_and_gradients_without_padding(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """What is left of 16, 13, 16 and 11 tokens after the first nine are 7, 4, 7 and 2."""
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    _require_the_same(model, batch, start_once(model))
    assert sizes == [4 * NARROW, 9, 2, 4, 14]


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("batch", ["left"], indirect=True)
@pytest.mark.parametrize("groups", [False, True])
def test_generation_behind_prompts_in_tiles_gives_the_same_tokens(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor], groups: bool
) -> None:
    test_generation_from_a_shared_start_gives_the_same_tokens(model, batch, groups)


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("batch", ["left"], indirect=True)
def test_completions_in_tiles_do_not_run_the_token_that_predicts_nothing(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Completions of 3, 3, 3, 3, 2, 2, 1 and 1 tokens: 4 * 2 + 2 * 1 of them predict another one."""
    lengths = torch.tensor([3, 3, 3, 3, 2, 2, 1, 1])
    ids = torch.cat([batch[0].repeat_interleave(2, 0), torch.full((8, 3), 7)], 1)
    mask = torch.cat([batch[1].repeat_interleave(2, 0), (torch.arange(3) < lengths[:, None]).long()], 1)
    expected = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    sizes: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2].numel()))
    with start_once(model), prompts_once(model, NARROW, ends=False):
        found = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    predicts = torch.cat([mask[:, 1:], torch.zeros(8, 1, dtype=torch.long)], 1) * mask == 1
    torch.testing.assert_close(found[predicts], expected[predicts], rtol=1e-4, atol=1e-5)
    assert sizes == [9, 2, 4, 14, 4 * 1, 4 * 2]  # rows with nothing to predict run one column


def test_tiles_are_made_where_they_save_more_than_a_pass() -> None:
    """One of 60 columns beside 15 of 10 saves 15 * 50; beside 15 of 58 it would save 30, less than a pass costs."""
    apart = shared_prompts._tiles(torch.arange(60) >= torch.tensor([[50]] * 15 + [[0]]))
    together = shared_prompts._tiles(torch.arange(60) >= torch.tensor([[2]] * 15 + [[0]]))
    assert [(len(rows), columns) for rows, columns in apart] == [(15, slice(50, 60)), (1, slice(0, 60))]
    assert [(len(rows), columns) for rows, columns in together] == [(16, slice(0, 60))]
