"""The real vLLM draws from the same distribution as transformers; slow, and skipped where it is not installed.

`DRIRL_VLLM_PYTHON` names the python of an environment that has vLLM, where this one has none.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from drirl_core.config import ExecutionConfig, ModelsConfig, VllmConfig
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling import SamplingSettings, chat_text, close_engine, sample, vllm_problems
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter, make_tiny_policy

VLLM = VllmConfig(python=os.environ.get("DRIRL_VLLM_PYTHON", ""), cpu_cache_gib=0.25, compile=False)
PROMPTS = [f"What is {number} and {number}?" for number in range(40)]
COPIES = 1500
DRAWN = SamplingSettings(max_new_tokens=2, temperature=0.8, batch_size=500)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        bool(list(vllm_problems(ExecutionConfig(sampler="vllm", vllm=VLLM)))),
        reason="vLLM is not installed; DRIRL_VLLM_PYTHON may name a python that has it",
    ),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with heads of a width that vLLM knows, and weights so large that some tokens are likely."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = make_tiny_policy(tmp_path_factory.mktemp("vllm") / "policy")
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(
        folder, hidden_size=128, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def draw(policy: Path, tiny_models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that samples with one engine for all tests, each time into a new store."""
    models = dataclasses.replace(tiny_models, policy=f"path:{policy}", threads=2)

    def go(prompts: list[str], copies: int, how: SamplingSettings, vllm: VllmConfig | None) -> Any:
        store = ArtifactStore(tmp_path_factory.mktemp("store"))
        return sample(policy, prompts, copies, how, models=models, store=store, reporter=RecordingReporter(), vllm=vllm)

    go.models = models
    yield go
    close_engine()


def test_first_tokens_follow_the_exact_distribution(draw: Any, policy: Path) -> None:
    """Both samplers pass the test by which a wrong temperature, or top_p of 0.9, fails."""
    loaded = load_policy(policy, draw.models)
    tokens = loaded.tokenizer(chat_text(loaded.tokenizer, "Hi"), return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        logits = loaded.model(**tokens).logits[0, -1].double()
    texts = [loaded.tokenizer.decode([number]) for number in range(len(logits))]

    def p_value(vllm: VllmConfig | None, temperature: float) -> float:
        exact = torch.softmax(logits / temperature, -1).numpy()
        how = dataclasses.replace(DRAWN, max_new_tokens=1)
        drawn = Counter(completion.text for completion in draw(["Hi"], COPIES, how, vllm)[0])
        return _fit(drawn, texts, exact)

    assert p_value(VLLM, 0.8) > 1e-3
    assert p_value(None, 0.8) > 1e-3
    assert p_value(VLLM, 1.0) < 1e-6  # the test can fail


def _fit(drawn: Counter[str], texts: list[str], exact: np.ndarray) -> float:
    """Return the p-value of a chi-square test; tokens of one text count together, and rare texts too.

    Args:
        drawn: counts of completions of one token by their text.
        texts: text of each token; tokens that are stripped or special have an empty one.
        exact: probabilities of the tokens.
    """
    expected: Counter[str] = Counter()
    for text, probability in zip(texts, exact, strict=True):
        expected["" if text.startswith("<|") else text.strip()] += probability * COPIES
    common = [text for text, count in expected.items() if count >= 5]
    seen = [drawn[text] for text in common]
    wanted = [expected[text] for text in common]
    rest = COPIES - sum(wanted)
    if rest > 1:
        seen, wanted = [*seen, COPIES - sum(seen)], [*wanted, rest]
    return float(chisquare(seen, np.array(wanted) * sum(seen) / sum(wanted)).pvalue)


def test_greedy_rows_are_those_of_transformers(draw: Any) -> None:
    how = SamplingSettings(max_new_tokens=12, temperature=0.0, batch_size=40)

    ours, theirs = (draw(PROMPTS, 1, how, vllm) for vllm in (None, VLLM))

    equal = np.mean([a == b for a, b in zip(ours, theirs, strict=True)])
    assert equal > 0.9  # float32: only a tie within rounding is broken in another way
    assert len({row[0].text for row in ours}) > 10


def test_a_row_has_its_own_random_numbers(draw: Any) -> None:
    how = SamplingSettings(max_new_tokens=6, temperature=1.0, batch_size=8)
    together = draw(PROMPTS[:8], 2, how, VLLM)

    assert [draw([prompt], 2, how, VLLM)[0] for prompt in PROMPTS[:3]] == together[:3]
    assert sum(first != second for first, second in together) >= 7
    assert draw(PROMPTS[:8], 2, dataclasses.replace(how, seed=1), VLLM) != together


def test_a_prefill_is_continued(draw: Any) -> None:
    how = SamplingSettings(max_new_tokens=6, temperature=0.0, batch_size=8, prefill="Sure, ")

    assert draw(PROMPTS[:4], 1, how, VLLM) == draw(PROMPTS[:4], 1, how, None)
