"""Completions: rows are independent of each other, draws are exact, and the model loads only when it is needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from drirl_core.config import ModelsConfig
from drirl_core.errors import TrainingError
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import Completion, SamplingSettings, chat_text, exact_cpu_sampling, rows, sample
from drirl_core.models.sampling.decode import decode, inverse_transform
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key
from drirl_core.testing import RecordingReporter, make_tiny_policy

PROMPTS = [
    "Hi",
    "How do I bake bread?",
    "Tell me a long story about a river, please, and about the sea.",
    "What?",
    "naïve 東京 😀",
]
HOW = SamplingSettings(max_new_tokens=6, temperature=1.0, batch_size=8)


@pytest.fixture(scope="module")
def policy(tiny_policy: Path, tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_policy, tiny_models)


@pytest.fixture
def draw(policy: Policy, tiny_models: ModelsConfig, tmp_path: Path) -> Any:
    """Return a function that samples in a new store, so that nothing comes from a cache."""
    count = iter(range(1000))

    def go(
        prompts: list[str], copies: int = 1, how: SamplingSettings = HOW, of: Policy = policy
    ) -> list[list[Completion]]:
        return sample(
            of,
            prompts,
            copies,
            how,
            models=tiny_models,
            store=ArtifactStore(tmp_path / str(next(count))),
            reporter=SilentReporter(),
        )

    return go


# ----------------------------------------------------------------------------------------------------------------- rows


def test_a_row_does_not_depend_on_its_batch(draw: Any) -> None:
    together = draw(PROMPTS, 2)
    assert together == draw(PROMPTS, 2, dataclasses.replace(HOW, batch_size=3))
    assert together == list(reversed(draw(PROMPTS[::-1], 2)))
    for prompt, completions in zip(PROMPTS, together, strict=True):
        assert draw([prompt], 2) == [completions]


def test_more_copies_keep_the_first_ones(draw: Any) -> None:
    two, four = draw(PROMPTS, 2), draw(PROMPTS, 4)
    assert [row[:2] for row in four] == two
    assert all(len({c.text for c in row}) > 1 for row in four)  # the copies differ


def test_the_seed_and_the_temperature_matter(draw: Any) -> None:
    assert draw(PROMPTS) != draw(PROMPTS, how=dataclasses.replace(HOW, seed=1))
    assert draw(PROMPTS) != draw(PROMPTS, how=dataclasses.replace(HOW, temperature=0.1))


def test_no_prompts_and_equal_prompts(draw: Any) -> None:
    assert draw([]) == []
    assert draw(["Hi", "Hi", "What?"]) == [draw(["Hi"])[0], draw(["Hi"])[0], draw(["What?"])[0]]


def test_a_prefill_is_continued(draw: Any, policy: Policy) -> None:
    """What follows is the greedy search of transformers after the rendered prompt and the words, blanks kept."""
    how = SamplingSettings(max_new_tokens=6, temperature=0.0, batch_size=8, prefill="Sure, here is")
    texts = [chat_text(policy.tokenizer, prompt) + how.prefill for prompt in PROMPTS]
    for text, (completion,) in zip(texts, draw(PROMPTS, how=how), strict=True):
        tokens = policy.tokenizer(text, return_tensors="pt", add_special_tokens=False)
        output = policy.model.generate(**tokens, max_new_tokens=6, do_sample=False)[0]
        whole = policy.tokenizer.decode(output, skip_special_tokens=True)
        shown = policy.tokenizer.decode(tokens["input_ids"][0], skip_special_tokens=True)
        assert completion.text == whole[len(shown) :].rstrip()


def test_rows_with_a_prefill_are_others_and_leave_the_rest_alone(
    policy: Policy, tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    """The key of a row without a prefill is made of the parts that it was made of before there were prefills."""
    plain = SamplingSettings(max_new_tokens=3, temperature=1.0, batch_size=8, seed=5)
    how = {"models": tiny_models, "store": store, "reporter": SilentReporter()}
    first = sample(policy, ["Hi"], 1, plain, **how)
    text = chat_text(policy.tokenizer, "Hi")
    cache = RowCache(store.cache_path("completions"))
    key = content_key(policy.key, 3, 1.0, 5, "Hi", 0, text)
    assert list(cache.get_many([key])) == [key]
    for prefill in ("Sure,", "No,"):
        sample(policy, ["Hi"], 1, dataclasses.replace(plain, prefill=prefill), **how)
    keys = [content_key(policy.key, 3, 1.0, 5, prefill, "Hi", 0, text + prefill) for prefill in ("Sure,", "No,")]
    assert len(cache.get_many([key, *keys])) == 3
    assert sample(policy, ["Hi"], 1, plain, **how) == first


def test_lengths(draw: Any, policy: Policy) -> None:
    """A random policy of 261 tokens rarely stops, so a row has all of its tokens; one that always stops has one."""
    for row in draw(PROMPTS, 3):
        for completion in row:
            assert completion.finished or completion.tokens == HOW.max_new_tokens
    ending = _changed(
        policy,
        lambda logits: torch.zeros_like(logits).index_fill(-1, torch.tensor([policy.tokenizer.eos_token_id]), 100.0),
    )
    assert draw(["Hi"], of=ending) == [[Completion("", 1, True)]]


# ---------------------------------------------------------------------------------------------------------------- cache


def test_cached_rows_load_no_model(
    tiny_policy: Path, tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.kept_policy.cache_clear()
    loads: list[str] = []
    monkeypatch.setattr(rows, "load_policy", lambda *args: loads.append("load") or load_policy(*args))
    decoded: list[int] = []
    monkeypatch.setattr(
        rows, "decode", lambda p, texts, *rest, **how: decoded.append(len(texts)) or decode(p, texts, *rest, **how)
    )

    def go(
        prompts: list[str], copies: int = 2, how: SamplingSettings = HOW
    ) -> tuple[list[list[Completion]], list[str]]:
        reporter = RecordingReporter()
        return sample(
            tiny_policy, prompts, copies, how, models=tiny_models, store=store, reporter=reporter
        ), reporter.lines

    first, lines = go(PROMPTS[:3])
    assert (loads, decoded, len(lines)) == (["load"], [6], 1)
    reused, lines = go(PROMPTS[:3])
    assert (reused, loads, decoded, lines) == (first, ["load"], [6], [])
    changed, lines = go([PROMPTS[0], PROMPTS[3], PROMPTS[2]])  # one prompt of three is another one
    assert (changed[0], changed[2]) == (first[0], first[2])
    assert (loads, decoded) == (["load"], [6, 2])  # the categories of a stage share the loaded policy
    assert lines[0] == "4 of 6 completions are reused; sampling 2"
    go(PROMPTS[:3], copies=3)
    assert decoded == [6, 2, 3]
    go(PROMPTS[:1], how=dataclasses.replace(HOW, max_new_tokens=5))
    assert decoded == [6, 2, 3, 2]
    rows.kept_policy.cache_clear()
    assert go(PROMPTS[:3])[0] == first
    assert loads == ["load"]


def test_other_weights_in_the_same_directory_are_loaded(
    tmp_path: Path, tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    folder = tmp_path / "policy"
    first, same, other = (
        sample(
            make_tiny_policy(folder, seed=seed),
            ["Hi"],
            1,
            HOW,
            models=tiny_models,
            store=store,
            reporter=SilentReporter(),
        )
        for seed in (0, 0, 1)
    )
    assert first == same != other


def test_rows_sampled_before_a_crash_are_reused(
    policy: Policy, tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = dataclasses.replace(HOW, batch_size=2)
    calls: list[int] = []

    def dies(*args: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*args, **how)

    monkeypatch.setattr(rows, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        sample(policy, PROMPTS, 1, how, models=tiny_models, store=store, reporter=SilentReporter())
    reporter = RecordingReporter()
    sample(policy, PROMPTS, 1, how, models=tiny_models, store=store, reporter=reporter)
    assert reporter.lines[0] == "2 of 5 completions are reused; sampling 3"


def test_progress_reaches_the_end(policy: Policy, tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    reporter = RecordingReporter()
    sample(
        policy, PROMPTS, 1, dataclasses.replace(HOW, batch_size=2), models=tiny_models, store=store, reporter=reporter
    )
    assert reporter.done == {"completions": (5, 5)}
    assert reporter.lines[-1].startswith("sampled 5 completions, ")


# --------------------------------------------------------------------------------------------------------------- greedy


def test_greedy_is_hugging_face_greedy(draw: Any, policy: Policy) -> None:
    ours = draw(PROMPTS, 1, dataclasses.replace(HOW, temperature=0.0, max_new_tokens=12))
    for prompt, (completion,) in zip(PROMPTS, ours, strict=True):
        tokens = policy.tokenizer(chat_text(policy.tokenizer, prompt), return_tensors="pt", add_special_tokens=False)
        theirs = policy.model.generate(**tokens, max_new_tokens=12, do_sample=False)[0, tokens["input_ids"].shape[1] :]
        assert completion.text == policy.tokenizer.decode(theirs, skip_special_tokens=True).strip()
        assert completion.tokens == len(theirs)


def test_a_very_low_temperature_equals_greedy(draw: Any) -> None:
    assert draw(PROMPTS, 1, dataclasses.replace(HOW, temperature=1e-4)) == draw(
        PROMPTS, 1, dataclasses.replace(HOW, temperature=0.0)
    )


# ---------------------------------------------------------------------------------------------------- inverse transform


def _drawn(probabilities: list[float], uniforms: list[float], temperature: float = 1.0) -> list[int]:
    rows = len(uniforms)
    process = inverse_transform(temperature, torch.tensor(uniforms, dtype=torch.float64).unsqueeze(1), prompt_width=3)
    scores = torch.tensor(probabilities).log().expand(rows, -1)
    masked = process(torch.zeros(rows, 3, dtype=torch.long), scores)
    assert ((masked == 0).sum(dim=1) == 1).all()
    assert torch.isneginf(masked[masked != 0]).all()
    return masked.argmax(dim=1).tolist()


def test_inverse_transform_by_hand() -> None:
    """Probabilities .2, .3, .5 reach .2, .5, 1: below .2 is token 0, below .5 token 1, else token 2."""
    assert _drawn([0.2, 0.3, 0.5], [0.0, 0.1999, 0.2001, 0.4999, 0.5001, 0.999999]) == [0, 0, 1, 1, 2, 2]


def test_inverse_transform_with_temperature_by_hand() -> None:
    """Temperature 1/2 squares: .04, .09, .25 of .38 reach .1053, .3421, 1."""
    assert _drawn([0.2, 0.3, 0.5], [0.10, 0.11, 0.34, 0.35], temperature=0.5) == [0, 1, 1, 2]


def test_tokens_without_probability_are_never_drawn() -> None:
    assert _drawn([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.4999, 0.5, 0.5001, 1 - 2**-53]) == [1, 1, 3, 3, 3]


def test_each_step_uses_its_own_number() -> None:
    process = inverse_transform(1.0, torch.tensor([[0.1, 0.9]], dtype=torch.float64), prompt_width=2)
    scores = torch.tensor([[0.5, 0.5]]).log()
    assert process(torch.zeros(1, 2, dtype=torch.long), scores).argmax().item() == 0
    assert process(torch.zeros(1, 3, dtype=torch.long), scores).argmax().item() == 1


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=50), st.floats(0, 1, exclude_max=True), st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_the_drawn_token_is_where_the_distribution_function_reaches_the_number(
    logits: list[float], uniform: float, temperature: float
) -> None:
    process = inverse_transform(temperature, torch.tensor([[uniform]], dtype=torch.float64), prompt_width=1)
    token = process(torch.zeros(1, 1, dtype=torch.long), torch.tensor([logits])).argmax().item()
    reached = np.cumsum(torch.softmax(torch.tensor(logits) / temperature, 0).double().numpy())
    assert (reached[token - 1] if token else 0.0) <= uniform * reached[-1] + 1e-6
    assert uniform * reached[-1] <= reached[token] + 1e-6


def test_draws_follow_the_softmax() -> None:
    """Chi-square with 19 degrees of freedom is below 43.8 with probability .999; the seed is fixed."""
    from scipy.stats import chi2

    generator = torch.Generator().manual_seed(0)
    logits, draws, temperature = torch.randn(20, generator=generator), 20_000, 0.7
    uniforms = torch.rand(draws, 1, generator=generator, dtype=torch.float64)
    masked = inverse_transform(temperature, uniforms, 1)(
        torch.zeros(draws, 1, dtype=torch.long), logits.expand(draws, -1)
    )
    counts = torch.bincount(masked.argmax(dim=1), minlength=20).double()
    expected = torch.softmax(logits.double() / temperature, 0) * draws
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert statistic < chi2.ppf(0.999, 19)
    wrong = torch.softmax(logits.double(), 0) * draws  # the same draws do not fit temperature 1
    assert ((counts - wrong) ** 2 / wrong).sum().item() > 10 * chi2.ppf(0.999, 19)


def test_first_tokens_of_a_policy_follow_its_softmax(draw: Any, policy: Policy) -> None:
    """3000 one-token completions against the model's own probabilities, in the 20 likeliest tokens and the rest."""
    from scipy.stats import chi2

    sharp = _changed(policy, lambda logits: logits * 6)
    how = SamplingSettings(1, 1.0, 1000)
    text = chat_text(policy.tokenizer, "Hi")
    keys = [content_key(i) for i in range(3000)]
    tokens = policy.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        probabilities = torch.softmax(sharp.model(**tokens).logits[0, -1].double(), 0)
    drawn = [
        c.text for start in range(0, 3000, 1000) for c in decode(sharp, [text] * 1000, keys[start : start + 1000], how)
    ]
    names = [policy.tokenizer.decode([i], skip_special_tokens=True).strip() for i in range(len(probabilities))]
    expected: dict[str, float] = {}
    for name, probability in zip(names, probabilities.tolist(), strict=True):
        expected[name] = expected.get(name, 0.0) + 3000 * probability
    likely = sorted(expected, key=lambda name: -expected[name])[:20]
    pairs = [(drawn.count(name), expected[name]) for name in likely]
    pairs.append((3000 - sum(count for count, _ in pairs), 3000 - sum(value for _, value in pairs)))
    assert sum((count - value) ** 2 / value for count, value in pairs) < chi2.ppf(0.999, 20)


def _changed(policy: Policy, change: Any) -> Policy:
    """Return a copy of the policy whose logits are changed."""
    import copy

    model = copy.deepcopy(policy.model)
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: change(logits))
    return dataclasses.replace(policy, model=model, key=f"changed {id(model)}")


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_run(draw: Any, policy: Policy, value: float) -> None:
    broken = _changed(policy, lambda logits: logits.index_fill(-1, torch.tensor([7]), value))
    with pytest.raises(
        TrainingError, match=r"the policy's logits are not finite; its weights are damaged or training diverged"
    ):
        draw(["Hi"], of=broken)


# -------------------------------------------------------------------------------------------------------- inside TRL


def _generate(model: Any, tokens: Any, count: int = 5) -> torch.Tensor:
    settings = GenerationConfig(
        max_new_tokens=count, do_sample=True, temperature=0.9, top_k=0, top_p=1.0, pad_token_id=260
    )
    return model.generate(**tokens, generation_config=settings)


def test_exact_cpu_sampling_is_seeded_and_restores_generate(policy: Policy) -> None:
    tokens = policy.tokenizer(["Hi", "Hello there"], return_tensors="pt", padding=True)
    original = policy.model.generate
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed * 17)  # the global stream has no influence
        with exact_cpu_sampling(policy.model, 0.9, torch.Generator().manual_seed(seed), 5):
            assert policy.model.generate != original
            outputs.append(_generate(policy.model, tokens))
        assert policy.model.generate == original
        assert "generate" not in vars(policy.model)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_exact_cpu_sampling_restores_generate_after_an_error(policy: Policy) -> None:
    with pytest.raises(RuntimeError, match="boom"), exact_cpu_sampling(policy.model, 1.0, torch.Generator(), 5):
        raise RuntimeError("boom")
    assert "generate" not in vars(policy.model)


def test_exact_cpu_sampling_does_not_use_the_global_stream(policy: Policy) -> None:
    tokens = policy.tokenizer(["Hi"], return_tensors="pt")
    torch.manual_seed(5)
    untouched = torch.rand(3)
    torch.manual_seed(5)
    with exact_cpu_sampling(policy.model, 0.9, torch.Generator().manual_seed(1), 5):
        _generate(policy.model, tokens)
    assert torch.equal(torch.rand(3), untouched)


def test_exact_cpu_sampling_draws_by_hand(policy: Policy) -> None:
    """With temperature T and uniform numbers u, the first token is where the cumulated softmax(logits / T) exceeds u."""
    tokens = policy.tokenizer(["Hi", "Hi", "Hi"], return_tensors="pt")
    uniforms = torch.rand(3, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        reached = torch.softmax(policy.model(**tokens).logits[0, -1].float() / 0.9, 0).cumsum(0, dtype=torch.float64)
    expected = [int((reached <= u * reached[-1]).sum()) for u in uniforms[:, 0]]
    with exact_cpu_sampling(policy.model, 0.9, torch.Generator().manual_seed(9), 1):
        assert _generate(policy.model, tokens, 1)[:, -1].tolist() == expected
