"""Hidden states: the right layer, the right tokens, computed once, and nothing above the layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError, TrainingError
from drirl_core.models import hidden_states, layer_states
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.layer_states import masked_mean, of_like_length, read_layer
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import chat_text
from drirl_core.models.token_rows import TokenRow
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import RecordingReporter, make_tiny_policy

PROMPTS = ["hi", "a longer question about bread", "hi", "hi", "naïve 東京 😀"]
COMPLETIONS = ["yes", "no, and here is why", "", "another answer", "ok"]


@pytest.fixture(scope="module")
def policy(tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_models.policy, tiny_models)


@pytest.fixture
def source(tiny_models: ModelsConfig, store: ArtifactStore) -> HiddenStates:
    return HiddenStates(tiny_models, store)


def plain(policy: Policy, prompt: str, completion: str, layer: int) -> np.ndarray:
    """One row at a time through the complete model, without padding or cache."""
    ids = policy.tokenizer(chat_text(policy.tokenizer, prompt), add_special_tokens=False)["input_ids"]
    own = policy.tokenizer(completion, add_special_tokens=False)["input_ids"] if completion else []
    with torch.no_grad():
        states = policy.model.model(torch.tensor([ids + own]), output_hidden_states=True).hidden_states[layer][0]
    mean = states[len(ids) :].mean(dim=0) if own else torch.zeros(states.shape[1])
    return torch.stack([states[len(ids) - 1], mean]).numpy()


def test_a_row_is_the_last_prompt_state_and_the_mean_over_the_completion(source: HiddenStates, policy: Policy) -> None:
    rows = source.encode(PROMPTS, COMPLETIONS, 1)
    assert (rows.shape, rows.dtype) == ((5, 2, 32), np.float32)
    expected = np.stack([plain(policy, p, c, 1) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert not rows[2, 1].any()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(source.encode(PROMPTS, COMPLETIONS, 2), expected, atol=1e-2)


def test_the_last_layer_is_read_before_the_final_norm(source: HiddenStates, policy: Policy) -> None:
    kept = []
    hook = policy.model.model.layers[1].register_forward_hook(lambda m, a, output: kept.append(output))
    plain(policy, "hi", "yes", 2)
    hook.remove()
    states = (kept[0][0] if isinstance(kept[0], tuple) else kept[0])[0]
    np.testing.assert_allclose(source.encode(["hi"], ["yes"], 2)[0, 1], states[-3:].mean(dim=0), atol=1e-5)


def test_nothing_above_the_layer_is_computed_and_the_model_is_left_as_it_was(policy: Policy) -> None:
    calls: list[str] = []
    hooks = [
        policy.model.model.layers[1].register_forward_hook(lambda *_: calls.append("above")),
        policy.model.lm_head.register_forward_hook(lambda *_: calls.append("head")),
        policy.model.model.layers[0].register_forward_hook(lambda *_: calls.append("below")),
    ]
    read_layer(policy, [(1, 2, 3)], [(4, 5)], 1)
    for hook in hooks:
        hook.remove()
    assert set(calls) == {"below"}
    logits = policy.model(torch.tensor([[1, 2, 3]])).logits  # leaving early left no hook behind
    assert logits.shape[:2] == (1, 3)


def test_a_prompt_is_computed_once_for_all_its_completions(policy: Policy) -> None:
    sizes: list[tuple[int, ...]] = []
    hook = policy.model.model.layers[0].register_forward_pre_hook(
        lambda m, args: sizes.append(tuple(args[0].shape[:2]))
    )
    read_layer(policy, [(1, 2, 3)] * 4 + [(7, 8)], [(4, 5), (6,), (), (9, 9, 9), (1,)], 1)
    hook.remove()
    assert sizes == [(2, 3), (4, 3)]  # nothing is computed of an empty completion


def test_completions_are_divided_by_length_so_that_no_part_has_more_padding_than_is_spared() -> None:
    """By length: 1, 2, 2, 5, 9. The first three pad 1 token; with the 5 it would be 1 + 3 x 3; 5 and 9 pad 4."""
    lengths = [5, 2, 0, 9, 1, 2]
    assert list(of_like_length(lengths, 4)) == [[4, 1, 5], [0, 3]]
    assert list(of_like_length(lengths, 3)) == [[4, 1, 5], [0], [3]]
    assert list(of_like_length(lengths, 0)) == [[4], [1, 5], [0], [3]]
    assert list(of_like_length(lengths, None)) == [[4, 1, 5, 0, 3]]
    assert list(of_like_length([0, 0], 4)) == list(of_like_length([], 4)) == []


def test_passes_by_length_run_behind_the_same_prompts_and_change_no_row(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [(1, 2, 3, 4), (1, 2, 5), (1, 2, 5), (1, 2, 3, 4), (1, 2, 5), (1, 2, 6, 7, 8)]
    completions = [(6, 7, 8, 9, 10, 11, 12), (6,), (), (9,), (3, 4, 5, 6, 7, 8), (5, 9)]
    together = read_layer(policy, prompts, completions, 1)
    monkeypatch.setattr(layer_states, "_SPARED_TOKENS", 2)
    sizes: list[tuple[int, ...]] = []
    hook = policy.model.model.layers[0].register_forward_pre_hook(
        lambda m, args: sizes.append(tuple(args[0].shape[:2]))
    )
    apart = read_layer(policy, prompts, completions, 1)
    hook.remove()
    assert sizes == [(1, 2), (3, 3), (3, 2), (2, 7)]
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-6)
    assert not apart[2, 1].any()


def test_what_all_prompts_begin_with_is_computed_once(policy: Policy) -> None:
    """Prompts (1, 2, 3, 4) and (1, 2, 5) share two tokens: 2 + 2 rows of 2, instead of 2 rows of 4."""
    prompts = [(1, 2, 3, 4), (1, 2, 5), (1, 2, 5)]
    alone = torch.cat([read_layer(policy, [prompt], [(6, 7)], 1) for prompt in prompts])
    sizes: list[int] = []
    hook = policy.model.model.layers[0].register_forward_pre_hook(
        lambda _, inputs: sizes.append(inputs[0].shape[:2].numel())
    )
    together = read_layer(policy, prompts, [(6, 7)] * 3, 1)
    hook.remove()
    assert sizes == [2, 4, 6]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_rows_are_computed_once_and_kept(
    tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = hidden_states.read_layer
    monkeypatch.setattr(
        hidden_states, "read_layer", lambda p, a, b, layer: (seen.append(len(a)), original(p, a, b, layer))[1]
    )
    source = HiddenStates(tiny_models, store)
    rows = source.encode([*PROMPTS, "hi"], [*COMPLETIONS, "yes"], 1)
    assert sum(seen) == 5
    np.testing.assert_array_equal(rows[0], rows[5])
    again = HiddenStates(tiny_models, store)  # another process
    np.testing.assert_array_equal(again.encode(PROMPTS, COMPLETIONS, 1), rows[:5])
    assert sum(seen) == 5
    again.encode(PROMPTS[:1], COMPLETIONS[:1], 2)  # another layer is another row
    assert sum(seen) == 6
    assert again.encode([], [], 1).shape == (0, 2, 32)


def test_rollouts_are_not_kept(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    source = HiddenStates(tiny_models, store, keep=False)
    first = source.encode(PROMPTS, COMPLETIONS, 1)
    assert not store.cache_path("hidden_states").exists()
    np.testing.assert_array_equal(source.encode(PROMPTS, COMPLETIONS, 1), first)  # of the latest call
    source.encode(["other"], ["row"], 1)
    assert len(source._memory) == 1


def test_rows_in_the_store_are_read_where_nothing_is_kept(
    tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = HiddenStates(tiny_models, store).encode(PROMPTS, COMPLETIONS, 1)
    monkeypatch.setattr(HiddenStates, "_compute", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(HiddenStates(tiny_models, store, keep=False).encode(PROMPTS, COMPLETIONS, 1), kept)


def test_offered_rows_are_taken_by_their_tokens_and_all_others_computed(
    tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    """Of the offers one is of a row that is asked for; one has tokens that no text has, half of a character's."""
    source, plain = (HiddenStates(tiny_models, store, keep=False) for _ in range(2))
    asked = source.tokens(["hi", "hi"], ["yes", "é"])
    other = TokenRow(asked[1].prompt, asked[1].completion[:1])
    given = np.arange(64, dtype=np.float32).reshape(2, 32)
    source.offer(1, {asked[0]: given, other: given})
    rows, expected = (one.encode(["hi", "hi"], ["yes", "é"], 1) for one in (source, plain))
    np.testing.assert_array_equal(rows[0], given)
    np.testing.assert_allclose(rows[1], expected[1], atol=1e-5)
    np.testing.assert_array_equal(source.encode(["hi"], ["yes"], 2), plain.encode(["hi"], ["yes"], 2))  # another layer
    source.offer(1, {})
    np.testing.assert_allclose(source.encode(["hi"], ["yes"], 1), expected[:1], atol=1e-5)
    source.offer(1, {asked[0]: np.full_like(given, np.nan)})
    source.encode([], [], 1)  # forgets the rows of the latest call
    with pytest.raises(TrainingError, match="not finite"):
        source.encode(["hi"], ["yes"], 1)


def test_rows_that_lack_are_named_once_by_their_tokens(tiny_models: ModelsConfig, store: ArtifactStore) -> None:
    HiddenStates(tiny_models, store).encode(["hi"], ["yes"], 1)
    source = HiddenStates(tiny_models, store, keep=False)
    lacking = source.lacking(["hi", "hi", "hi"], ["yes", "no", "no"], 1)
    assert lacking == source.tokens(["hi"], ["no"])


def test_batches_do_not_change_a_row(
    tiny_models: ModelsConfig, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = HiddenStates(tiny_models, store, keep=False).encode(PROMPTS, COMPLETIONS, 1)
    monkeypatch.setattr(hidden_states, "_BATCH_TOKENS", 1)
    reporter = RecordingReporter()
    alone = HiddenStates(tiny_models, store, keep=False).encode(PROMPTS, COMPLETIONS, 1, reporter)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert reporter.done == {"hidden states": (5, 5)}


def test_another_policy_has_rows_and_a_digest_of_its_own(
    tiny_models: ModelsConfig, store: ArtifactStore, tmp_path: Path
) -> None:
    other = dataclasses.replace(tiny_models, policy=f"path:{make_tiny_policy(tmp_path / 'other', seed=1)}")
    first, second = HiddenStates(tiny_models, store), HiddenStates(other, store)
    assert first.digest != second.digest
    assert np.abs(first.encode(["hi"], ["yes"], 1) - second.encode(["hi"], ["yes"], 1)).max() > 1e-2
    assert (first.reference, first.depth, first.dim) == (tiny_models.policy, 2, 32)


def test_layers_by_number_and_by_share(source: HiddenStates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth 30: 0.6 is layer 18; a share never rounds to layer 0."""
    monkeypatch.setattr(HiddenStates, "depth", 30)
    assert [source.layer_of(x) for x in (0.6, 18, 1, 30, 0.01, 0.99)] == [18, 18, 1, 30, 1, 30]
    with pytest.raises(ModelError, match=r"rewards\.layer is 31, but .* has 30 layers"):
        source.layer_of(31)


def test_means_accumulate_in_float32() -> None:
    """In bfloat16 a sum of 512 ones would stop at 256."""
    assert masked_mean(torch.ones(1, 512, 1, dtype=torch.bfloat16), torch.ones(1, 512, dtype=torch.bool)).item() == 1.0


def test_states_that_are_not_finite_are_refused_and_not_kept(
    source: HiddenStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "read_layer", lambda *_: torch.full((1, 2, 32), float("nan")))
    with pytest.raises(TrainingError, match="hidden states that are not finite"):
        source.encode(["hi"], ["yes"], 1)
    monkeypatch.undo()
    assert np.isfinite(source.encode(["hi"], ["yes"], 1)).all()


def test_a_model_without_a_list_of_layers_is_named(policy: Policy) -> None:
    class Odd:
        def get_decoder(self) -> Odd:
            return self

    with pytest.raises(ModelError, match="Odd has no list of `layers`"):
        read_layer(dataclasses.replace(policy, model=Odd()), [(1,)], [(2,)], 1)


def test_states_of_prompts_are_those_of_their_last_token(source: HiddenStates, policy: Policy) -> None:
    """The tiny policy has two layers: 0.6 of the depth is layer 1, and its last one is layer 2."""
    assert [source.layer_of(setting) for setting in (0.01, 0.6, 2)] == [1, 1, 2]
    found = source.of_prompts(PROMPTS, 1)
    assert found.shape == (len(PROMPTS), 32)
    for prompt, row in zip(PROMPTS, found, strict=True):
        ids = policy.tokenizer(chat_text(policy.tokenizer, prompt), add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            expected = policy.model(**ids, output_hidden_states=True).hidden_states[1][0, -1]
        assert row == pytest.approx(expected.numpy(), abs=1e-4)
    assert np.array_equal(source.of_prompts(PROMPTS[::-1], 1), found[::-1])  # from the cache
    assert not np.allclose(source.of_prompts(PROMPTS, 2), found)


def test_a_model_whose_list_of_layers_is_not_known_is_computed_completely(source: HiddenStates, policy: Policy) -> None:
    class Unlisted:
        def __call__(self, **given: Any) -> Any:
            return policy.model(**given)

        def get_decoder(self) -> object:
            return object()

    texts = [chat_text(policy.tokenizer, prompt) for prompt in PROMPTS]
    rows = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    unlisted = dataclasses.replace(policy, model=Unlisted())
    slow = read_layer(unlisted, rows, [()] * len(rows), 1)[:, 0].numpy()
    assert slow == pytest.approx(source.of_prompts(PROMPTS, 1), abs=1e-4)
