"""The contract with TRL on which shared hidden states rely: the reference comes before the rewards, adapters off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from trl import GRPOConfig, RLOOConfig

from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.models import hidden_states
from drirl_core.models.adapters import peft_config
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.loading import load_policy
from drirl_core.models.token_rows import TokenRow
from drirl_core.policy.rollout import message_text
from drirl_core.policy.shared_states import SharedStates
from drirl_core.policy.trainer import DynamicRewardScalingTrainer, ScaledRlooTrainer
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.text.chain_of_draft import cut_draft

PROMPTS = ["Hi", "How are you?", "Bake bread", "Sing a song"]


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "stock"])
@pytest.mark.parametrize(
    ("trainer_class", "arguments_class"),
    [(DynamicRewardScalingTrainer, GRPOConfig), (ScaledRlooTrainer, RLOOConfig)],
    ids=["grpo", "rloo"],
)
@pytest.mark.parametrize("passes", [1, 2])
def test_the_reference_reads_every_completion_before_it_is_rewarded(
    trainer_class: Any,
    arguments_class: Any,
    exact: bool,
    passes: int,
    tiny_policy: Path,
    tiny_models: ModelsConfig,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps at a high rate, so that states under adapters would be others. With two passes over a generation TRL
    computes the policy's own log-probabilities first, which are not the reference's.
    """
    source, policy = HiddenStates(tiny_models, store, keep=False), load_policy(tiny_policy, tiny_models)
    plain = HiddenStates(tiny_models, store, keep=False)
    computed: list[Any] = []
    original = hidden_states.read_layer
    shared_rows = 0

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        nonlocal shared_rows
        users, texts = [message_text(one) for one in prompts], [cut_draft(message_text(one)) for one in completions]
        ends = set(policy.tokenizer.all_special_ids)
        sampled = [tuple(t for t in tokens if t not in ends) for tokens in columns["completion_ids"]]
        own = source.tokens(users, texts)
        differ = {row for row, tokens in zip(own, sampled, strict=True) if row.completion != tokens}
        computed.clear()
        monkeypatch.setattr(
            hidden_states, "read_layer",
            lambda p, a, b, layer: (computed.extend(map(TokenRow, a, b)), original(p, a, b, layer))[1],
        )  # fmt: skip
        found = source.encode(users, texts, 1)
        monkeypatch.setattr(hidden_states, "read_layer", original)
        # Texts whose own tokens are not those that were sampled are computed, or read behind the prompts that are kept.
        assert set(computed) == (set() if exact else differ)
        np.testing.assert_allclose(found, plain.encode(users, texts, 1), atol=1e-5)
        shared_rows += len(own) - len(differ)
        return [float(len(text)) for text in texts]

    settings = arguments_class(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", seed=7, max_steps=2 * passes, per_device_train_batch_size=8,
        num_generations=4, num_iterations=passes, max_completion_length=1, learning_rate=0.1, beta=0.1,
    )  # fmt: skip
    trainer = trainer_class(
        reward_funcs=reward,
        exact_sampling=exact,
        shared=SharedStates(source, 1, policy.tokenizer),
        model=policy.model,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS]),
        processing_class=policy.tokenizer,
        peft_config=peft_config(LoraConfig(rank=2), 2),
    )
    trainer.train()
    assert shared_rows > 0
