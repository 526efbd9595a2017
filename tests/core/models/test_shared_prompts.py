"""A prompt that several rows share goes through the decoder once, with the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from drirl_core.models.shared_prompts import prompts_once

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


def test_hidden_states_and_gradients_are_those_of_complete_rows(
    model: Any, rows: tuple[torch.Tensor, torch.Tensor]
) -> None:
    hidden, gradients = _hidden_and_gradients(model, *rows)
    with prompts_once(model, WIDTH):
        shared_hidden, shared_gradients = _hidden_and_gradients(model, *rows)
    torch.testing.assert_close(shared_hidden, hidden, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(shared_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


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
