"""Thoughts survive decoding, so that they can be cut: marks among the special tokens, and those of the template."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drirl_core.config import ModelsConfig
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import SamplingSettings, reader_of_completions, sample
from drirl_core.models.sampling.decode import completion_text
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.text.chain_of_draft import cut_draft

FORCED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


@pytest.fixture
def thinking(copy: Path, settings: ModelsConfig) -> Policy:
    """The tiny policy with `<think>` and `</think>` as special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(copy)
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(copy)
    return load_policy(copy, settings)


def _ids(policy: Policy, text: str) -> list[int]:
    return policy.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_marks_that_are_special_tokens_are_kept(thinking: Policy) -> None:
    ids = _ids(thinking, "<think>hm</think>No, thanks.<|end|>")
    assert thinking.tokenizer.decode(ids, skip_special_tokens=True) == "hmNo, thanks."  # what TRL would pass on
    assert completion_text(thinking.tokenizer, ids) == "<think>hm</think>No, thanks."
    read = reader_of_completions(thinking.tokenizer)
    assert read is not None
    assert cut_draft(read(ids)) == "No, thanks."
    assert cut_draft(read(_ids(thinking, "<think>hm"))) == ""


def test_a_policy_without_marks_needs_no_reader(tiny_policy: Path, settings: ModelsConfig) -> None:
    policy = load_policy(tiny_policy, settings)
    assert reader_of_completions(policy.tokenizer) is None
    assert completion_text(policy.tokenizer, _ids(policy, " a b <|end|>")) == "a b"


def test_a_thought_that_the_template_opens_belongs_to_the_completion(copy: Path, settings: ModelsConfig) -> None:
    """The completion holds only the end of the thought; without an end there is no answer."""
    (copy / "chat_template.jinja").write_text(FORCED)
    policy = load_policy(copy, settings)
    read = reader_of_completions(policy.tokenizer)
    assert read is not None
    assert read(_ids(policy, "hm</think>\n\nNo.")) == "<think>hm</think>\n\nNo."
    assert cut_draft(read(_ids(policy, "hm</think>\n\nNo."))) == "No."
    assert cut_draft(read(_ids(policy, "I would say no"))) == ""


def test_sampled_completions_carry_the_opened_thought(copy: Path, settings: ModelsConfig, store: ArtifactStore) -> None:
    (copy / "chat_template.jinja").write_text(FORCED)
    policy = _saying(load_policy(copy, settings), "no</think>yes")
    how = SamplingSettings(13, 0.0, 4)
    ((found,),) = sample(policy, ["hi"], 1, how, models=settings, store=store, reporter=SilentReporter())
    assert found.text == "<think>no</think>yes"
    short = dataclasses.replace(how, max_new_tokens=2)
    ((found,),) = sample(policy, ["hi"], 1, short, models=settings, store=store, reporter=SilentReporter())
    assert (found.text, cut_draft(found.text)) == ("<think>no", "")


def _saying(policy: Policy, text: str) -> Policy:
    """Return the policy made to say a text over and over, one token per step, whatever it reads."""
    ids, steps = _ids(policy, text), itertools.count()

    def say(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([ids[next(steps) % len(ids)]]), 9.0)

    policy.model.get_output_embeddings().register_forward_hook(say)
    return policy
