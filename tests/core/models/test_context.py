"""Prompts over what a policy can read are refused before anything is sampled, with their text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, MambaConfig

from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError
from drirl_core.models.context import context_length, too_long
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.likelihood import continuation_log_probs
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore

DIARY = "Here is my whole diary of the week, please read it: " + "monday was long and grey and wet. " * 20
"""Longer than the 512 tokens, one per byte, that the tiny policy can read."""


def test_how_much_a_model_reads() -> None:
    assert context_length(GPT2Config(n_positions=77)) == 77
    assert context_length(LlamaConfig(max_position_embeddings=512)) == 512
    yarn: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "rope_theta": 1e4,
    }
    assert context_length(LlamaConfig(max_position_embeddings=512, rope_scaling=yarn)) == 2048
    assert context_length(MambaConfig()) is None


def test_a_prompt_that_just_fits() -> None:
    """One token per character: 10 tokens and 2 new ones fill 12."""
    tokenizer: Any = lambda text, **_: {"input_ids": list(text)}  # noqa: E731
    assert too_long(tokenizer, ["x" * 10], 2, 12) == []
    assert too_long(tokenizer, ["", "x" * 11, "x" * 12], 2, 12) == [(1, 11), (2, 12)]
    assert too_long(tokenizer, ["x" * 99], 2, None) == []


def test_sampling_names_the_prompt(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    policy = load_policy(tiny_models.policy, tiny_models)
    how = SamplingSettings(8, 0.0, 4)
    common: dict[str, Any] = {"models": tiny_models, "store": store, "reporter": SilentReporter()}
    with pytest.raises(
        DataError,
        match=r"the prompt 'Here is my whole diary.*' has 7\d\d tokens as the model reads it, and with 8 new ones more than "
        r"the 512 that the model can read; shorten or remove the prompt, or lower max_new_tokens \(1 more prompts",
    ):
        sample(policy, ["Hi", DIARY, DIARY + "!"], 1, how, **common)
    assert not store.cache_path("completions").exists() or not sample(policy, [], 1, how, **common)
    with pytest.raises(DataError, match=r"the prompt 'Here is my whole diary"):
        continuation_log_probs(policy, [DIARY], ["No"], 4, **common)


def test_a_prompt_with_its_new_tokens_counts(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    """500 bytes and the template's three tokens leave room for 9 new tokens, not for 10."""
    policy = load_policy(tiny_models.policy, tiny_models)
    common: dict[str, Any] = {"models": tiny_models, "store": store, "reporter": SilentReporter()}
    sample(policy, ["x" * 500], 1, SamplingSettings(9, 0.0, 4), **common)
    with pytest.raises(DataError, match="has 503 tokens"):
        sample(policy, ["x" * 500], 1, SamplingSettings(10, 0.0, 4), **common)


def test_hidden_states_refuse_a_prompt_and_cut_a_completion(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    states = HiddenStates(tiny_models, store)
    with pytest.raises(DataError, match=r"has 7\d\d tokens as the model reads it, more than the 512 that it can read"):
        states.encode([DIARY], ["No"], 1)
    long = states.encode(["hi"], ["y" * 600], 1)
    assert long.shape == (1, 2, 32)
    assert (long[0] == states.encode(["hi"], ["y" * (512 - 5)], 1)[0]).all()  # the prompt has 5 tokens
    with pytest.raises(DataError, match=r"the prompt 'hi' and its reply have 5 and 600 tokens as path:.* reads them"):
        states.require_room("hi", "y" * 600)
    states.require_room("hi", "y" * 507)


def test_a_policy_without_configuration_has_no_limit(tiny_policy: Path, tiny_models: ModelsConfig) -> None:
    import dataclasses

    policy = load_policy(tiny_policy, tiny_models)
    assert policy.context == 512
    assert dataclasses.replace(policy, model=SimpleNamespace()).context is None
