"""Log-probabilities of openings, and hidden states of prompts, against one plain forward pass per text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drirl_core.config import ModelsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.models import likelihood
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import chat_text
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter

PROMPTS = ["Hi", "How do I bake bread?", "Tell me a long story about a river, please.", "naïve 東京"]
OPENINGS = ["I", "Sure, here", "No.", "I will not", "I will", "I wi", "Sure"]


@pytest.fixture(scope="module")
def policy(tiny_policy: Path, tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_policy, tiny_models)


@pytest.fixture
def score(policy: Policy, tiny_models: ModelsConfig, tmp_path: Path) -> Any:
    """Score in a fresh store."""
    count = iter(range(1000))

    def go(prompts: list[str], openings: list[str] = OPENINGS, batch_size: int = 8, of: Any = policy) -> np.ndarray:
        store = ArtifactStore(tmp_path / str(next(count)))
        return likelihood.continuation_log_probs(
            of, prompts, openings, batch_size, models=tiny_models, store=store, reporter=SilentReporter()
        )

    return go


def _plain(policy: Policy, prompt: str, opening: str) -> float:
    """Read prompt and opening in one pass, alone and without a cache."""
    before = policy.tokenizer(chat_text(policy.tokenizer, prompt), add_special_tokens=False)["input_ids"]
    after = policy.tokenizer(opening, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = policy.model(input_ids=torch.tensor([before + after])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    return sum(chances[len(before) - 1 + i, token].item() for i, token in enumerate(after))


def test_openings_get_the_log_probability_of_a_plain_pass(policy: Policy, score: Any) -> None:
    expected = [[_plain(policy, prompt, opening) for opening in OPENINGS] for prompt in PROMPTS]
    assert score(PROMPTS) == pytest.approx(np.array(expected), abs=2e-4)


def test_the_batch_changes_nothing(score: Any) -> None:
    alone = np.concatenate([score([prompt], batch_size=1) for prompt in PROMPTS])
    assert score(PROMPTS, batch_size=64) == pytest.approx(alone, abs=1e-4)
    assert score(PROMPTS[::-1]) == pytest.approx(alone[::-1], abs=1e-4)
    assert score(["Hi", "Hi"], OPENINGS[:1]).shape == (2, 1)  # an opening of one token needs no second pass


def test_kept_rows_need_no_model(
    policy: Policy, tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    batch = likelihood._batch
    monkeypatch.setattr(likelihood, "_batch", lambda p, texts, ids: seen.append(len(texts)) or batch(p, texts, ids))

    def go(prompts: list[str], openings: list[str]) -> np.ndarray:
        how: dict[str, Any] = {"models": tiny_models, "store": store, "reporter": RecordingReporter()}
        return likelihood.continuation_log_probs(policy, prompts, openings, 64, **how)

    first = go(PROMPTS[:3], OPENINGS)
    assert np.array_equal(go(PROMPTS[:3], OPENINGS), first)
    assert seen == [3]
    assert np.array_equal(go([PROMPTS[3], PROMPTS[0]], OPENINGS)[1], first[0])
    assert seen == [3, 1]
    go(PROMPTS[:1], OPENINGS[:2])  # other openings are other rows
    assert seen == [3, 1, 1]


def test_an_empty_opening_and_broken_weights_are_named(policy: Policy, score: Any) -> None:
    with pytest.raises(DataError, match="the continuation '' has no token"):
        score(PROMPTS, ["I", ""])

    class Broken:
        def __call__(self, **given: Any) -> Any:
            read = policy.model(**given)
            read.logits[:] = float("nan")
            return read

    with pytest.raises(TrainingError, match="not finite"):
        score(PROMPTS, of=Policy(Broken(), policy.tokenizer, policy.device, "broken"))
