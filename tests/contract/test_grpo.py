"""The contract with TRL: what `DynamicRewardScalingTrainer` does to GRPO, and what it must not do.

Each test trains a random two-layer policy for a few steps. A failure here after an upgrade of TRL means that the
overrides in drirl_core/policy/trainer.py no longer act where they should.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from drirl_core.config import HardnessConfig, ModelsConfig
from drirl_core.errors import TrainingError
from drirl_core.hardness.coefficients import Coefficients
from drirl_core.models.loading import load_policy
from drirl_core.policy import trainer as trainer_module
from drirl_core.policy.rollout import Processes, RolloutBatch, RolloutCoefficients
from drirl_core.policy.scoring import RolloutScorer
from drirl_core.policy.trainer import DynamicRewardScalingTrainer, ScaledRlooTrainer

PROMPTS = [
    "Hi",
    "How are you?",
    "Bake bread",
    "Sing a song",
    "Count to ten",
    "What is rain?",
    "Tell a joke",
    "Good night",
]
GROUP = 4


class Fixed:
    """Give each row the alpha of its prompt."""

    def __init__(self, alpha: Callable[[str], float]) -> None:
        self._alpha = alpha
        self.calls: list[RolloutBatch] = []

    def coefficients(self, batch: RolloutBatch, processes: Processes) -> RolloutCoefficients:
        self.calls.append(batch)
        assert (processes.index, processes.gather([1, 2])) == (0, [1, 2])  # one process
        alpha = np.array([self._alpha(prompt) for prompt in batch.prompts], dtype=np.float64)
        return RolloutCoefficients(alpha, {"alpha/mean": 1.25, "alpha/call": float(len(self.calls))})


def _constant(value: float) -> Fixed:
    return Fixed(lambda _: value)


def _by_place(prompt: str) -> float:
    """Return alpha 0.5, 1, 1.5, ... by the position of the prompt in PROMPTS."""
    return 0.5 * (1 + PROMPTS.index(prompt))


def reward(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """Return a number per completion that differs between completions, computed from characters and length."""
    return [_reward_of(completion[-1]["content"]) for completion in completions]


def _reward_of(text: str) -> float:
    return sum(ord(character) % 7 for character in text) / 7 + len(text)


class Harness:
    """Make trainers that differ only in what a test names."""

    def __init__(self, policy: Path, models: ModelsConfig, folder: Path) -> None:
        self._policy, self._models, self._folder = policy, models, folder

    def make(
        self,
        cls: type[Any] = DynamicRewardScalingTrainer,
        *,
        reward_funcs: Any = reward,
        settings: dict[str, Any] | None = None,
        prompts: Sequence[str] = PROMPTS,
        **own: Any,
    ) -> Any:
        policy = load_policy(self._policy, self._models)
        arguments: dict[str, Any] = {
            "output_dir": str(self._folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 1, "seed": 7, "data_seed": 7, "max_steps": 4, "per_device_train_batch_size": 8,
            "num_generations": GROUP, "max_completion_length": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "beta": 0.0, "loss_type": "grpo",
        }  # fmt: skip
        rows = [
            {
                "prompt": [{"role": "user", "content": prompt}], "category": "insult", "prompt_id": f"id of {prompt}",
                "kind": "unsafe", "demonstration": f"answer to {prompt}",
            }
            for prompt in prompts
        ]  # fmt: skip
        rloo = issubclass(cls, RLOOTrainer)
        if rloo:
            del arguments["loss_type"]
        trainer = cls(
            model=policy.model,
            reward_funcs=reward_funcs,
            args=(RLOOConfig if rloo else GRPOConfig)(**{**arguments, **(settings or {})}),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
            processing_class=policy.tokenizer,
            **own,
        )
        trainer.seen = []
        compute = trainer._compute_loss

        def recording(model: Any, inputs: dict[str, Any]) -> Any:
            trainer.seen.append(
                {
                    key: inputs[key].clone()
                    for key in ("advantages", "prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
                }
            )
            return compute(model, inputs)

        trainer._compute_loss = recording
        return trainer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        trainer = self.make(*args, **kwargs)
        trainer.train()
        return trainer


@pytest.fixture
def harness(tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path) -> Iterator[Harness]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Harness(tiny_policy, tiny_models, tmp_path)
    torch.set_num_threads(before)


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def _same(left: Any, right: Any) -> bool:
    a, b = _weights(left), _weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _advantages(trainer: Any) -> list[torch.Tensor]:
    return [batch["advantages"] for batch in trainer.seen]


def _texts(trainer: Any, batch: dict[str, torch.Tensor], kind: str) -> list[str]:
    ids, masks = batch[f"{kind}_ids"], batch[f"{kind}_mask"].bool()
    return [
        trainer.processing_class.decode(row[mask], skip_special_tokens=True)
        for row, mask in zip(ids, masks, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------------ alpha = 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "beta": 0.05},
        {"num_iterations": 2, "loss_type": "dapo", "scale_rewards": "batch"},
    ],
    ids=["plain", "accumulated_kl", "two_passes"],
)
def test_alpha_one_is_stock_grpo_to_the_last_bit(harness: Harness, settings: dict[str, Any]) -> None:
    ours = harness.train(coefficient=_constant(1.0), settings=settings)
    stock = harness.train(GRPOTrainer, settings=settings)
    assert ours.state.global_step == 4
    assert _same(ours, stock)
    assert not _same(stock, harness.make(GRPOTrainer))  # there was something to learn


def test_no_coefficient_is_stock_grpo_to_the_last_bit(harness: Harness) -> None:
    assert _same(harness.train(coefficient=None), harness.train(GRPOTrainer))


def test_alpha_one_is_stock_rloo_to_the_last_bit(harness: Harness) -> None:
    settings = {"beta": 0.05, "num_iterations": 2}
    ours = harness.train(ScaledRlooTrainer, coefficient=_constant(1.0), settings=settings)
    stock = harness.train(RLOOTrainer, settings=settings)
    assert _same(ours, stock)
    assert not _same(stock, harness.make(RLOOTrainer))


# -------------------------------------------------------------------------------------------------------------- scaling


def test_alpha_triples_the_leave_one_out_advantages(harness: Harness) -> None:
    """Of a group with rewards r, RLOO's advantage is r_i - mean of the others = 4/3 (r_i - mean of all)."""
    settings = {"max_steps": 1, "per_device_train_batch_size": 32}  # the complete generation in one batch
    ours = harness.train(ScaledRlooTrainer, coefficient=_constant(3.0), settings=settings)
    stock = harness.train(RLOOTrainer, settings=settings)
    assert torch.equal(_advantages(ours)[0], 3 * _advantages(stock)[0])
    rewards: dict[str, list[float]] = {}
    seen = [
        (*zip(*(_texts(stock, batch, kind) for kind in ("prompt", "completion")), strict=True),) for batch in stock.seen
    ]
    for prompt, text in itertools.chain(*seen):
        rewards.setdefault(prompt, []).append(_reward_of(text))
    assert {len(group) for group in rewards.values()} == {GROUP}
    by_hand = [4 / 3 * (_reward_of(text) - sum(rewards[prompt]) / GROUP) for prompt, text in seen[0]]
    assert torch.allclose(_advantages(stock)[0], torch.tensor(by_hand), atol=1e-4)


def test_alpha_triples_the_advantages_once_although_a_generation_is_used_twice(harness: Harness) -> None:
    settings = {"num_iterations": 2, "max_steps": 2}
    source = _constant(3.0)
    ours = harness.train(coefficient=source, settings=settings)
    stock = harness.train(GRPOTrainer, settings=settings)
    assert len(source.calls) == 1
    plain = _advantages(stock)
    assert len(plain) == 2
    assert torch.equal(plain[0], plain[1])
    assert plain[0].abs().max() > 0.5
    for scaled in _advantages(ours):
        assert torch.equal(scaled, 3 * plain[0])


def test_a_trainer_without_the_override_would_be_detected(harness: Harness) -> None:
    """The test above compares with 3; without the override the factor is 1."""

    class Removed(DynamicRewardScalingTrainer):
        _generate_and_score_completions = GRPOTrainer._generate_and_score_completions

    source = _constant(3.0)
    ours = harness.train(Removed, coefficient=source, settings={"max_steps": 1})
    stock = harness.train(GRPOTrainer, settings={"max_steps": 1})
    assert len(source.calls) == 1
    assert torch.equal(_advantages(ours)[0], _advantages(stock)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 32, "max_steps": 1},
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_steps": 1},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 2},
    ],
    ids=["one_batch", "accumulated", "split_groups"],
)
def test_alpha_is_applied_to_the_rows_it_was_computed_for(harness: Harness, settings: dict[str, Any]) -> None:
    """A = alpha * (R - mean of the group) / (std of the group + 1e-4), computed from the decoded rows after TRL's
    shuffle.
    """
    source = Fixed(_by_place)
    trainer = harness.train(coefficient=source, settings=settings)
    rows = [
        (prompt, completion, advantage)
        for batch in trainer.seen
        for prompt, completion, advantage in zip(
            _texts(trainer, batch, "prompt"),
            _texts(trainer, batch, "completion"),
            batch["advantages"].tolist(),
            strict=True,
        )
    ]
    assert len(rows) == len(PROMPTS) * GROUP if settings["max_steps"] == 1 else 16
    groups: dict[str, list[float]] = {}
    for prompt, completion, _ in rows:
        groups.setdefault(prompt, []).append(_reward_of(completion))
    assert all(len(rewards) == GROUP for rewards in groups.values())
    for prompt, completion, advantage in rows:
        rewards = torch.tensor(groups[prompt])
        expected = _by_place(prompt) * (_reward_of(completion) - rewards.mean()) / (rewards.std() + 1e-4)
        assert advantage == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
    given = [prompt for batch in source.calls for prompt in batch.prompts]
    assert sorted(given) == sorted(prompt for prompt, _, _ in rows)
    assert given != [prompt for prompt, _, _ in rows]  # TRL did shuffle; otherwise this test shows nothing


class _Alike:
    def similarity(self, demonstrations: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return np.ones(len(completions))


class _NearlyEqual:
    """Reward completions of the first four prompts nearly alike, and those of the others by their characters."""

    def rewards(self, prompts: Sequence[str], completions: Sequence[str], categories: Sequence[str]) -> np.ndarray:
        scales = [1e-3 if prompt in PROMPTS[:4] else 1.0 for prompt in prompts]
        return np.array([scale * _reward_of(text) for scale, text in zip(scales, completions, strict=True)])


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (DynamicRewardScalingTrainer, {"scale_rewards": "group"}),
        (DynamicRewardScalingTrainer, {"scale_rewards": "batch"}),
        (DynamicRewardScalingTrainer, {"scale_rewards": "none"}),
        (ScaledRlooTrainer, {}),
    ],
    ids=["group", "batch", "none", "rloo"],
)
def test_groups_without_spread_get_no_advantage_and_others_their_own(
    harness: Harness, cls: type[Any], settings: dict[str, Any]
) -> None:
    """Rewards of four groups differ by thousandths, so that the bound 0.1 sets the advantages of these alone to 0."""
    one_batch = {**settings, "max_steps": 1, "per_device_train_batch_size": 32}

    def train(min_spread: tuple[float, int] | None) -> Any:
        coefficients = Coefficients(HardnessConfig(combine="none"), 0)
        scorer = RolloutScorer(_NearlyEqual(), _Alike(), coefficients, None, min_spread)
        return harness.train(cls, reward_funcs=scorer.reward, coefficient=scorer, settings=one_batch)

    plain, bounded = train(None), train((0.1, GROUP))
    quiet = torch.tensor([prompt in PROMPTS[:4] for prompt in _texts(plain, plain.seen[0], "prompt")])
    assert int(quiet.sum()) == 4 * GROUP
    before, after = _advantages(plain)[0], _advantages(bounded)[0]
    assert (before[quiet] != 0).any()
    assert (after[quiet] == 0).all()
    assert torch.equal(after[~quiet], before[~quiet])
    assert [row["frac_reward_below_min_spread"] for row in bounded.state.log_history[:1]] == [0.5]
    assert bounded.state.log_history[0]["frac_reward_zero_std"] == 0.0


def test_the_coefficient_gets_columns_and_rewards_of_its_rows(harness: Harness) -> None:
    source = _constant(1.0)
    trainer = harness.train(coefficient=source, settings={"max_steps": 2})
    assert len(source.calls) == 2
    for given, used in zip(source.calls, trainer.seen, strict=True):
        assert set(given.categories) == {"insult"} and set(given.kinds) == {"unsafe"}
        assert given.prompt_ids == tuple(f"id of {prompt}" for prompt in given.prompts)
        assert given.demonstrations == tuple(f"answer to {prompt}" for prompt in given.prompts)
        assert given.rewards.shape == (8,)
        assert given.rewards.tolist() == pytest.approx(list(map(_reward_of, given.completions)))
        assert sorted(zip(given.prompts, given.completions, strict=True)) == sorted(
            zip(_texts(trainer, used, "prompt"), _texts(trainer, used, "completion"), strict=True)
        )


def test_scaling_the_reward_instead_of_the_advantage_has_no_effect(harness: Harness) -> None:
    """The group normalisation cancels a factor on the reward: this is why the override exists."""
    plain = harness.train(GRPOTrainer, settings={"max_steps": 1})
    scaled = harness.train(
        GRPOTrainer,
        reward_funcs=lambda prompts, completions, **_: [3 * value for value in reward(prompts, completions)],
        settings={"max_steps": 1},
    )
    torch.testing.assert_close(_advantages(scaled)[0], _advantages(plain)[0], rtol=1e-3, atol=1e-3)


def test_evaluation_is_not_scaled(harness: Harness) -> None:
    settings = {"per_device_eval_batch_size": GROUP, "max_steps": 1}
    source = _constant(3.0)
    ours = harness.make(coefficient=source, settings=settings)
    results = [ours.evaluate()]
    stock = harness.make(
        GRPOTrainer, settings=settings
    )  # made here, because it seeds the random numbers of the evaluation
    results.append(stock.evaluate())
    assert source.calls == []
    assert len(ours.seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(_advantages(ours), _advantages(stock), strict=True))
    assert results[0]["eval_reward"] == results[1]["eval_reward"]
    assert not any(key.startswith("eval_alpha") for key in results[0])


# ------------------------------------------------------------------------------------------------------------------- KL


def test_the_kl_term_is_not_scaled(harness: Harness) -> None:
    """Step 1 (alpha 1) leaves the reference; in step 2 (alpha 0) the loss is beta * KL and changes the weights."""
    beta, calls = 0.5, []

    def alpha(_: str) -> float:
        return 1.0 if len(source.calls) == 1 else 0.0

    source = Fixed(alpha)
    settings = {"max_steps": 2, "beta": beta, "loss_type": "bnpo", "max_grad_norm": 0.0}
    trainer = harness.make(coefficient=source, settings=settings)
    step = trainer.training_step
    trainer.training_step = lambda *args: calls.append(_weights(trainer)) or step(*args)
    trainer.train()
    second = [log for log in trainer.state.log_history if "loss" in log][1]
    assert second["kl"] > 1e-4
    assert second["loss"] == pytest.approx(beta * second["kl"], rel=1e-4)
    after = _weights(trainer)
    assert any(not torch.equal(calls[1][name], after[name]) for name in after)


def test_alpha_zero_without_kl_changes_no_weight(harness: Harness) -> None:
    trainer = harness.train(coefficient=_constant(0.0), settings={"max_steps": 2})
    assert _same(trainer, harness.make())


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_invalid_alpha_is_refused(harness: Harness, value: float) -> None:
    trainer = harness.make(
        coefficient=Fixed(lambda prompt: value if prompt == PROMPTS[1] else 1.0),
        settings={"per_device_train_batch_size": 32},
    )
    with pytest.raises(TrainingError, match="alpha must be finite and at least 0"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None])
def test_invalid_rewards_are_refused(harness: Harness, value: float | None) -> None:
    """None too: TRL would silently give a row without a reward the advantage 0."""
    source = _constant(1.0)
    trainer = harness.make(
        coefficient=source, reward_funcs=lambda prompts, completions, **_: [value, *reward(prompts, completions)[1:]]
    )
    with pytest.raises(TrainingError, match=r"1 rewards are not finite; check the reward models' reports"):
        trainer.train()
    assert (trainer.state.global_step, source.calls) == (0, [])


# ------------------------------------------------------------------------------------------------------------- sampling


def test_exact_sampling_is_reproducible_and_restores_the_model(harness: Harness) -> None:
    settings = {"max_steps": 2}
    first, second = (
        harness.train(coefficient=_constant(1.0), exact_sampling=True, settings=settings) for _ in range(2)
    )
    assert _same(first, second)
    assert "generate" not in vars(first.model)
    other = harness.train(
        coefficient=_constant(1.0), exact_sampling=True, settings={**settings, "seed": 8, "data_seed": 7}
    )
    assert _texts(first, first.seen[0], "completion") != _texts(other, other.seen[0], "completion")


def test_exact_sampling_draws_other_numbers_in_every_step(harness: Harness) -> None:
    """One prompt throughout and a learning rate of 0: only the random numbers can make the second step differ from the
    first.
    """
    same = harness.train(exact_sampling=True, prompts=["Hi"] * 4, settings={"max_steps": 2, "learning_rate": 0.0})
    first, second = (sorted(_texts(same, batch, "completion")) for batch in same.seen)
    assert len(set(first) & set(second)) <= 1


def test_exact_sampling_draws_other_tokens_in_every_row_of_a_group(harness: Harness) -> None:
    trainer = harness.train(coefficient=_constant(1.0), exact_sampling=True, settings={"max_steps": 1})
    assert len(set(_texts(trainer, trainer.seen[0], "completion"))) == 8


def test_prompts_computed_once_train_the_same_weights(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts with four completions each, with and without sharing, KL to the reference included."""
    settings = {"max_steps": 3, "beta": 0.1}
    shared = harness.train(coefficient=_constant(1.0), exact_sampling=True, settings=settings)
    monkeypatch.setattr(trainer_module, "prompts_once", lambda *_, **__: contextlib.nullcontext())
    plain = harness.train(coefficient=_constant(1.0), exact_sampling=True, settings=settings)
    assert [_texts(shared, batch, "completion") for batch in shared.seen] == [
        _texts(plain, batch, "completion") for batch in plain.seen
    ]
    for ours, theirs in zip(shared.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_rollouts_inherit_no_generation_settings(
    harness: Harness, tiny_policy: Path, tiny_models: ModelsConfig, tmp_path: Path, exact: bool
) -> None:
    """TRL leaves most generation settings open, and `generate` fills them in from the model."""
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "copy"))
    own = {
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": list(range(100)),
        "min_new_tokens": 4,
    }
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_from_model_config": False, **own}))
    how = {"exact_sampling": exact, "settings": {"max_steps": 1}}
    plain, other = harness.train(**how), Harness(folder, tiny_models, tmp_path / "out").train(**how)
    assert _texts(plain, plain.seen[0], "completion") == _texts(other, other.seen[0], "completion")


def test_completions_are_read_as_they_were_sampled(harness: Harness) -> None:
    """Marks of thoughts among the special tokens are lost in TRL's decoding, so a reader of tokens can be given."""
    given: list[Any] = []

    def keep(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        given.append((completions, columns["completion_ids"]))
        return reward(prompts, [[{"content": text}] for text in completions])

    source = _constant(1.0)
    harness.train(
        reward_funcs=keep,
        coefficient=source,
        read_completion=lambda tokens: f"<{len(tokens)}>",
        settings={"max_steps": 1},
    )
    texts, ids = given[0]
    assert texts == [f"<{len(tokens)}>" for tokens in ids]
    assert list(source.calls[0].completions) == texts


# ----------------------------------------------------------------------------------------------------------------- logs


def test_alpha_and_times_are_logged_with_their_step(harness: Harness) -> None:
    trainer = harness.train(coefficient=_constant(1.0), exact_sampling=True, settings={"max_steps": 2})
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for step, log in enumerate(logs, start=1):
        assert (log["alpha/mean"], log["alpha/call"]) == (1.25, step)  # in the log of its own step
        assert log["time/sample_s"] > 0
        assert log["time/reward_s"] >= 0


# -------------------------------------------------------------------------------------------------------------- private


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_generate_single_turn", ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]),
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        ("_get_per_token_logps_and_entropies", ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]),
    ],
)
def test_the_private_methods_of_trl_still_exist(name: str, parameters: list[str]) -> None:
    for cls in (GRPOTrainer, RLOOTrainer):
        given = inspect.signature(getattr(cls, name)).parameters.values()
        required = [p.name for p in given if p.default is inspect.Parameter.empty]
        assert required == [p for p in parameters if cls is GRPOTrainer or p != "num_generations"]


def test_only_known_methods_are_overridden() -> None:
    for ours, stock in ((DynamicRewardScalingTrainer, GRPOTrainer), (ScaledRlooTrainer, RLOOTrainer)):
        before = ours.__mro__[: ours.__mro__.index(stock)]
        names = {name for cls in before for name in vars(cls) if hasattr(stock, name) and not name.startswith("__")}
        assert names == {
            "_generate_single_turn",
            "_generate_and_score_completions",
            "_get_per_token_logps_and_entropies",
        }
