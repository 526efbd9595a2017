"""States that the reference computes anyway are those that the rewards would compute, and nothing else is shared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from killing import Killed, KillingReporter

from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.models import hidden_states
from drirl_core.models.adapters import peft_config
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.layer_states import read_layer
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.shared_prompts import prompts_once, start_once
from drirl_core.models.token_rows import TokenRow
from drirl_core.policy import grpo
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.shared_states import SharedStates, equal_up_to
from drirl_core.policy.training import read_log
from drirl_core.rewards.backbones.hidden_state import HiddenShape, HiddenStateRewardModel
from drirl_core.store.artifacts import ArtifactStore

PROMPTS = ["Tell me: hi", "Tell me: a longer question about bread", "Tell me: naïve 東京"]
"""They begin alike, so that `start_once` has something to run once."""
COMPLETIONS = ["yes", "no, and here is why", "ok", "", "another answer", "a"]
DEMONSTRATIONS = ["I would rather not.", "Take flour, water and salt.", "No."]


class _Rewarded:
    """Names a demonstration per prompt; stands in for the scorer, of which nothing else is read."""

    def unrewarded(self, rows: Sequence[Any]) -> tuple[list[str], list[str]]:
        return PROMPTS, DEMONSTRATIONS


class Offered(HiddenStates):
    """Keep what is offered where a test can see it."""

    @property
    def rows(self) -> dict[TokenRow, np.ndarray]:
        return dict(self._offered)


@pytest.fixture
def policy(tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_models.policy, tiny_models)


@pytest.fixture
def source(tiny_models: ModelsConfig, store: ArtifactStore) -> Offered:
    return Offered(tiny_models, store, keep=False)


def _adapted(policy: Policy) -> Any:
    """Put adapters that change the output on both layers."""
    torch.manual_seed(1)
    model = peft.get_peft_model(policy.model, peft_config(LoraConfig(rank=2, alpha=4), 2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    return model


def _batch(source: HiddenStates, policy: Policy) -> tuple[torch.Tensor, torch.Tensor, int, list[TokenRow]]:
    """Two completions per prompt as TRL pads them, each with its end token but the last, which was cut off."""
    rows = source.tokens([prompt for prompt in PROMPTS for _ in range(2)], COMPLETIONS)
    ends = [(policy.tokenizer.eos_token_id,)] * 5 + [()]
    width, length = max(len(row.prompt) for row in rows), max(len(row.completion) for row in rows) + 1
    ids = torch.full((len(rows), width + length), policy.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for i, (row, end) in enumerate(zip(rows, ends, strict=True)):
        tokens = torch.tensor([*row.prompt, *row.completion, *end])
        start = width - len(row.prompt)
        ids[i, start : start + len(tokens)], mask[i, start : start + len(tokens)] = tokens, 1
    return ids, mask, width, rows


@contextlib.contextmanager
def _wrappers(model: Any, names: str, width: int) -> Iterator[None]:
    with contextlib.ExitStack() as blocks:
        if "start" in names:
            blocks.enter_context(start_once(model))
        if "prompts" in names:
            blocks.enter_context(prompts_once(model, width))
        yield


@pytest.mark.parametrize("names", ["", "start", "prompts", "start and prompts"])
def test_rows_of_the_reference_are_those_that_the_rewards_would_compute(
    source: Offered, policy: Policy, names: str
) -> None:
    frozen = read_layer(policy, *zip(*(rows := _batch(source, policy)[3]), strict=True), 1)
    model = _adapted(policy)
    ids, mask, width, _ = _batch(source, policy)
    with model.disable_adapter(), torch.no_grad(), _wrappers(model, names, width):
        plain = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
        shared = SharedStates(source, 1, policy.tokenizer)
        shared.begin([])
        with shared.read(model, width, keep_prompts=False):
            found = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
        after = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(found, plain) and torch.equal(after, plain)  # the reference itself is not changed
    assert set(source.rows) == set(rows)
    given = np.stack([source.rows[row] for row in rows])
    np.testing.assert_allclose(given, frozen.numpy(), atol=1e-5)


@pytest.mark.parametrize("names", ["prompts", "start and prompts"])
def test_demonstrations_are_read_behind_the_prompts_of_the_pass(source: Offered, policy: Policy, names: str) -> None:
    model = _adapted(policy)
    ids, mask, width, _ = _batch(source, policy)
    shared = SharedStates(source, 1, policy.tokenizer, _Rewarded())  # type: ignore[arg-type]
    shared.begin([{}])
    sizes: list[tuple[int, ...]] = []
    hook = (
        model.get_base_model()
        .model.layers[0]
        .register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[:2])))
    )
    with model.disable_adapter(), torch.no_grad(), _wrappers(model, names, width):
        with shared.read(model, width, keep_prompts=True):
            found = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
        plain = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
    hook.remove()
    torch.testing.assert_close(found, plain)
    demonstrations = source.tokens(PROMPTS, DEMONSTRATIONS)
    passes = len(sizes) // 2  # of `plain`, which reads no demonstrations
    assert sizes[passes] == (3, max(len(row.completion) for row in demonstrations))  # without their prompts
    given = np.stack([source.rows[row] for row in demonstrations])
    alone = load_policy(source.reference, source._models)
    expected = read_layer(alone, *zip(*demonstrations, strict=True), 1)
    np.testing.assert_allclose(given, expected.numpy(), atol=1e-5)
    assert shared.taken_seconds() > 0 and shared.taken_seconds() == 0


def test_answers_in_other_tokens_are_read_beside_the_pass(source: Offered, policy: Policy) -> None:
    """Half a character is decoded as a mark that has three tokens of its own, and of a draft only the answer counts."""
    model, prompt = _adapted(policy), source.tokens(PROMPTS[:1], [""])[0].prompt
    half = source.tokens(["hi"], ["é"])[0].completion[:1]
    draft = source.tokens(["hi"], ["asks for harm\n####\nNo."])[0].completion
    sampled = [(*half, *(policy.tokenizer.pad_token_id,) * (len(draft) - 1)), draft]
    ids = torch.tensor([[*prompt, *row] for row in sampled])
    mask = (ids != policy.tokenizer.pad_token_id).long()
    shared = SharedStates(source, 1, policy.tokenizer)
    shared.begin([])
    with (
        model.disable_adapter(),
        torch.no_grad(),
        prompts_once(model, len(prompt)),
        shared.read(model, len(prompt), keep_prompts=True),
    ):
        model.get_base_model().model(input_ids=ids, attention_mask=mask)
    answers = source.tokens(PROMPTS[:1] * 2, ["\N{REPLACEMENT CHARACTER}", "No."])
    assert set(source.rows) == {TokenRow(prompt, half), TokenRow(prompt, draft), *answers}
    expected = read_layer(load_policy(source.reference, source._models), *zip(*answers, strict=True), 1)
    np.testing.assert_allclose(np.stack([source.rows[row] for row in answers]), expected.numpy(), atol=1e-5)


def test_nothing_is_read_while_adapters_act(source: Offered, policy: Policy) -> None:
    model = _adapted(policy)
    ids, mask, width, _ = _batch(source, policy)
    shared = SharedStates(source, 1, policy.tokenizer)
    with torch.no_grad(), shared.read(model, width, keep_prompts=True):
        model.get_base_model().model(input_ids=ids, attention_mask=mask)
    assert source.rows == {}


def test_rows_of_the_step_before_are_forgotten(source: Offered, policy: Policy) -> None:
    model = _adapted(policy)
    ids, mask, width, _ = _batch(source, policy)
    shared = SharedStates(source, 1, policy.tokenizer)
    with model.disable_adapter(), torch.no_grad(), shared.read(model, width, keep_prompts=False):
        model.get_base_model().model(input_ids=ids, attention_mask=mask)
    assert source.rows
    shared.begin([])
    assert source.rows == {}


def test_models_are_equal_up_to_a_layer_by_their_weights(tiny_models: ModelsConfig, policy: Policy) -> None:
    def other() -> Any:
        return load_policy(tiny_models.policy, tiny_models).model

    def changed(name: str) -> Any:
        model = other()
        with torch.no_grad():
            weight = model.get_parameter(name)
            weight[(0,) * weight.dim()] += 1e-3
        return model

    assert equal_up_to(2, policy.model, other())
    above = changed("model.layers.1.mlp.up_proj.weight")
    assert equal_up_to(1, policy.model, above) and not equal_up_to(2, policy.model, above)
    assert equal_up_to(2, policy.model, changed("model.norm.weight"))
    assert not equal_up_to(1, policy.model, changed("model.layers.0.input_layernorm.weight"))
    assert not equal_up_to(1, policy.model, changed("model.embed_tokens.weight"))
    assert not equal_up_to(1, policy.model, other().bfloat16())
    turned = other()
    turned.model.rotary_emb.inv_freq += 1e-3
    assert not equal_up_to(1, policy.model, turned)


def test_models_that_drop_at_random_or_hide_their_layers_share_nothing(
    tiny_models: ModelsConfig, policy: Policy
) -> None:
    other = load_policy(tiny_models.policy, tiny_models).model
    other.config.attention_dropout = 0.1
    assert not equal_up_to(1, policy.model, other)
    hidden = load_policy(tiny_models.policy, tiny_models).model
    del hidden.model.norm
    assert not equal_up_to(1, hidden, policy.model)


# ---------------------------------------------------------------------------------------------------------- the stage


@pytest.fixture
def inputs(
    policy_inputs: dict[str, Path], tiny_models: ModelsConfig, store: ArtifactStore, tmp_path: Path
) -> dict[str, Path]:
    """Those of the policy stages, with random heads over the first layer of the frozen policy."""
    source = HiddenStates(tiny_models, store)
    found = dict(policy_inputs)
    for number, category in enumerate(("insult", "mental_health", "helpful")):
        torch.manual_seed(number)
        shape = HiddenShape(category, source.reference, source.digest, 1, 32, "prompt_and_completion", 4, 0.0)
        folder = tmp_path / f"head_{category}"
        folder.mkdir()
        HiddenStateRewardModel(shape, torch.zeros(64), torch.full((64,), 0.02)).save(folder)
        found[f"reward_model_{category}"] = folder
    return found


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[TokenRow]:
    """Rows that the rewards compute themselves."""
    seen: list[TokenRow] = []

    def noted(policy: Policy, prompts: Any, completions: Any, layer: int) -> Any:
        seen.extend(map(TokenRow, prompts, completions))
        return read_layer(policy, prompts, completions, layer)

    monkeypatch.setattr(hidden_states, "read_layer", noted)
    return seen


def _changed(start: Path, folder: Path, name: str) -> Path:
    """Copy a checkpoint with one other weight."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(start, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name][0, 0] += 1e-2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
def test_rewards_of_a_training_are_equal_with_and_without_sharing(
    contexts: Any, inputs: dict[str, Path], computed: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is another one above layer 1. Random bytes are seldom text, so that some answers are read beside."""
    start = _changed(
        Path(contexts.config().models.policy.removeprefix("path:")),
        contexts._folder / "start",
        "model.layers.1.mlp.up_proj.weight",
    )
    overrides = {"policy.lora": {"rank": 2, "first_layer": 0.5}, "policy.start": "sft", "policy.max_new_tokens": 1}
    given = {**inputs, "sft_checkpoint": start}
    shared = contexts.make("shared", overrides, inputs=given)
    build_policy_checkpoint(shared)
    with_sharing = list(computed)
    computed.clear()
    monkeypatch.setattr(grpo, "shared_states", lambda *_: None)
    plain = contexts.make("plain", overrides, inputs=given)
    build_policy_checkpoint(plain)
    assert with_sharing == [] and len(computed) > 20
    logs = [read_log(context.out / "training_log.jsonl") for context in (shared, plain)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4), name
    times = read_log(shared.out / "times.jsonl")
    assert all({"time/reward_s", "time/alpha_s"} <= row.keys() for row in times)


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
@pytest.mark.parametrize(
    ("weight", "overrides"),
    [
        ("model.layers.0.mlp.up_proj.weight", {}),
        (None, {"policy.kl": 0.0}),
        (None, {"policy.lora": {"rank": 0}}),
        (None, {"policy.stages": 2, "policy.order": "hardness", "policy.renew_reference": True}),
    ],
    ids=["other_lower_layers", "no_reference", "all_weights", "renewed_reference"],
)
def test_nothing_is_shared_where_the_reference_reads_something_else(
    contexts: Any,
    inputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    weight: str | None,
    overrides: dict[str, Any],
) -> None:
    offered: list[int] = []
    monkeypatch.setattr(HiddenStates, "offer", lambda self, layer, rows: offered.append(len(rows)))
    start = Path(contexts.config().models.policy.removeprefix("path:"))
    start = _changed(start, contexts._folder / "start", weight) if weight else start
    settings = {"policy.steps": 2, "policy.start": "sft", **overrides}
    build_policy_checkpoint(contexts.make("run", settings, inputs={**inputs, "sft_checkpoint": start}))
    assert offered == []


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
def test_a_killed_run_that_shares_resumes_to_the_same_log(contexts: Any, inputs: dict[str, Path]) -> None:
    overrides = {"policy.save_steps": 2, "policy.num_iterations": 2}
    uninterrupted = contexts.make("uninterrupted", overrides, inputs=inputs)
    build_policy_checkpoint(uninterrupted)
    with pytest.raises(Killed):
        build_policy_checkpoint(contexts.make("killed", overrides, inputs=inputs, reporter=KillingReporter(5)))
    resumed = contexts.make("killed", overrides, inputs=inputs)
    build_policy_checkpoint(resumed)
    logs = [read_log(context.out / "training_log.jsonl") for context in (uninterrupted, resumed)]
    assert logs[0] == logs[1]


def test_micro_batches_share_too(
    contexts: Any, inputs: dict[str, Path], computed: list[TokenRow], no_curves: None
) -> None:
    """A pass over two of eight rows is one prompt's group."""
    context = contexts.make(
        "run", {"policy.steps": 1, "policy.micro_batch": 2, "policy.max_new_tokens": 1}, inputs=inputs
    )
    build_policy_checkpoint(context)
    assert computed == []
