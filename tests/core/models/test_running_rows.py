"""Rows that have ended are not computed, and all others get what they would get beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drirl_core.config import ModelsConfig
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import running_rows as module
from drirl_core.models.sampling.decode import SamplingSettings, decode
from drirl_core.models.sampling.running_rows import running_rows

ROWS, LENGTH, PAD, ENDS = 8, 6, 2, [7]


@pytest.fixture
def policy(tiny_policy: Path, settings: ModelsConfig) -> Policy:
    return load_policy(tiny_policy, settings)


def _ending_after(lengths: list[int]) -> Any:
    """Return a logits processor that ends each row with its given number of tokens."""
    start: list[int] = []

    def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start.append(ids.shape[1])
        scores[:, ENDS] = -torch.inf
        for row, length in enumerate(lengths):
            if ids.shape[1] - start[0] + 1 == length:
                scores[row] = -torch.inf
                scores[row, ENDS] = 0.0
        return scores

    return process


def _generate(model: Any, lengths: list[int], mask: torch.Tensor) -> torch.Tensor:
    ids = torch.randint(10, 60, mask.shape, generator=torch.Generator().manual_seed(3))
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, do_sample=False, pad_token_id=PAD,
        eos_token_id=ENDS, logits_processor=[_ending_after(lengths)],
    )  # fmt: skip


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("lengths", "computed"),
    [
        ([1, 9, 9, 3, 9, 9, 9, 2], [8, 7, 6, 5, 5, 5]),  # an eighth of the rows has ended each time
        ([9] * 8, [8] * 6),
        ([1] * 7 + [9], [8] * 6),  # a single row is not left alone
        ([1] * 6 + [9, 2], [8, 2, 2, 2, 2, 2]),
        ([2] * 8, [8, 8]),
    ],
)
def test_tokens_are_the_same_and_rows_that_have_ended_are_not_computed(
    policy: Policy, lengths: list[int], computed: list[int], padded: bool
) -> None:
    mask = torch.ones(ROWS, 5, dtype=torch.long)
    mask[::2, :2] = 0 if padded else 1
    plain = _generate(policy.model, lengths, mask)
    sizes: list[int] = []
    policy.model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with running_rows(policy.model, ENDS):
        assert torch.equal(_generate(policy.model, lengths, mask), plain)
    assert sizes == computed
    assert "forward" not in vars(policy.model)


def test_few_ended_rows_stay_because_dropping_them_copies_the_cache(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_SHARE", 1 / 4)
    sizes: list[int] = []
    policy.model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with running_rows(policy.model, ENDS):
        _generate(policy.model, [1, 9, 2, 9, 9, 3, 9, 9], torch.ones(ROWS, 5, dtype=torch.long))
    assert sizes == [8, 8, 6, 6, 6, 6]


def test_decoding_gives_the_completions_that_it_gives_with_all_rows(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends come from the draws themselves: at a high temperature a row of the tiny policy ends soon."""
    texts = [f"<|user|>{word}<|end|><|assistant|>" for word in ("Hi", "Why?", "Bread", "A river", "No", "Sea")]
    keys = [f"{number * 7919:x}" for number in range(6)]
    how = SamplingSettings(40, 5.0, 8)
    sizes: list[int] = []
    policy.model.model.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = decode(policy, texts, keys, how)
    assert min(sizes[2:]) < 6
    monkeypatch.setattr(module, "_LEAST_ROWS", 7)
    assert decode(policy, texts, keys, how) == found
