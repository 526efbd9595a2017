"""Baselines: pairs by hand, what they train on, and GRPO with one setting changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.completions.stage import SCHEMA
from drirl_core.config import DpoConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.graph.build import Context
from drirl_core.graph.layout import dataset_name
from drirl_core.policy.baselines import (
    build_grpo_checkpoint,
    build_joint_checkpoint,
    build_propositions_checkpoint,
    build_rloo_checkpoint,
    build_rloo_s_checkpoint,
    build_verifiable_checkpoint,
)
from drirl_core.policy.dpo import build_dpo_checkpoint, build_dpo_s_checkpoint, drawn_by_weight, kind_weights
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.preferences import preference_pairs
from drirl_core.policy.scoring import load_scorer
from drirl_core.policy.training import read_log
from drirl_core.rewards.pairs import PoolPrompt, Reply
from drirl_core.rewards.proposition_reward import HARMFUL, HARMLESS, KindWeights, PropositionReward
from drirl_core.rewards.propositions import PROPOSITIONS
from drirl_core.store.tables import read_table, write_table

pytestmark = pytest.mark.usefixtures("no_curves")
REFUSAL, ANSWER = "Sorry, I can't help with that.", "Of course, here is how it goes: begin early and rest now and then."
LOOP = "again " * 40
SETTINGS = {"dpo.epochs": 3, "dpo.batch_size": 4, "dpo.learning_rate": 5e-3, "completions.samples": {"base": 2}}


def pool_prompt(kind: str, *replies: tuple[str, str], split: str = "train") -> PoolPrompt:
    made = tuple(Reply(policy, number, text) for number, (policy, text) in enumerate(replies))
    return PoolPrompt("p1", "How do I do that?", split, f"draft\n####\n{REFUSAL}", REFUSAL, made, kind)


@pytest.mark.parametrize(
    ("kind", "rejected"),
    [("unsafe", [ANSWER]), ("look_alike", [REFUSAL, "I cannot do this."]), ("general", [REFUSAL, "I cannot do this."])],
)
def test_pairs_by_hand(kind: str, rejected: list[str]) -> None:
    """Equal completions make one pair; a loop is neither kind; nobody sampled the last one."""
    replies = [
        ("base", ANSWER), ("sft", ANSWER), ("base", REFUSAL), ("sft", "I cannot do this."), ("sft", LOOP), ("compliance", "Yes, of course."),
    ]  # fmt: skip
    rows = preference_pairs([pool_prompt(kind, *replies)], "insult")
    assert [row["rejected"] for row in rows] == [[{"role": "assistant", "content": text}] for text in rejected]
    assert all(row["chosen"] == [{"role": "assistant", "content": REFUSAL}] for row in rows)
    assert all(row["prompt"] == [{"role": "user", "content": "How do I do that?"}] for row in rows)
    assert {(row["prompt_id"], row["category"]) for row in rows} == {("p1", "insult")}


def test_pairs_are_of_training_prompts() -> None:
    assert preference_pairs([pool_prompt("unsafe", ("base", ANSWER), split="validation")], "insult") == []


def test_settings_that_cannot_be(contexts: Any) -> None:
    for settings, message in (
        ({"beta": 0.0}, "dpo.beta is 0.0; above 0"),
        ({"batch_size": 0}, "dpo.batch_size is 0"),
        ({"helpful_share": 1.0}, "dpo.helpful_share is 1.0"),
        ({"validation_prompts": -1}, "dpo.validation_prompts is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            DpoConfig(**settings)
    with pytest.raises(ConfigError, match="baselines names one twice: dpo, dpo"):
        contexts.config({"baselines": ["dpo", "dpo"]})
    with pytest.raises(ConfigError, match=r"baselines.*dpo"):
        contexts.config({"baselines": ["ppo"]})


@pytest.fixture
def pooled(contexts: Any, tmp_path: Path) -> Callable[..., Context]:
    """Contexts with pools: of each prompt one right and one wrong completion."""

    def make(name: str, overrides: dict[str, Any] | None = None, wrong: bool = True, **changes: Any) -> Context:
        inputs = {key: path for key, path in contexts.inputs.items() if "dataset" in key}
        for category in ("insult", "mental_health", "helpful"):
            rows = read_table(inputs[dataset_name(category)] / "rows.parquet")
            right, other = (ANSWER, REFUSAL) if category == "helpful" else (REFUSAL, ANSWER)
            pool = [
                {"prompt_id": row["prompt_id"], "policy": "base", "sample": number, "completion": text, "answer": text, "tokens": 9, "finished": True}
                for row in rows
                for number, text in enumerate((right, other if wrong else right))
            ]  # fmt: skip
            folder = inputs[f"completion_pool_{category}"] = tmp_path / name / f"completion_pool_{category}"
            folder.mkdir(parents=True, exist_ok=True)
            write_table(folder / "completions.parquet", pool, SCHEMA)
        return contexts.make(name, {**SETTINGS, **(overrides or {})}, inputs=inputs, **changes)

    return make


def weights(context: Context) -> dict[str, torch.Tensor]:
    return load_file(context.out / "model.safetensors")


def test_dpo_learns_the_order_of_the_pairs(pooled: Callable[..., Context]) -> None:
    """Six training prompts in each of three data sets, one pair each: 18 pairs, 5 steps per epoch."""
    context = pooled("learns")
    shown = build_dpo_checkpoint(context)
    assert (shown["pairs"], shown["pairs/helpful"], shown["pairs/insult"], shown["steps"]) == (18, 6, 6, 15)
    log = read_log(context.out / "training_log.jsonl")
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # log 2: the policy is still the reference
    assert log[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert shown["margin"] > 0.01
    assert shown["last_loss"] < shown["first_loss"]
    assert "direct preference optimisation" in (context.out / "README.md").read_text(encoding="utf-8")


def test_the_share_of_harmless_pairs_by_hand() -> None:
    """Three unsafe pairs and one harmless one: a share of 0.4 gives 0.2 to each of the three and 0.4 to the one."""
    rows = [{"category": name} for name in ("insult", "insult", "helpful", "privacy_and_property")]
    assert kind_weights(rows, 0.0) == [1.0] * 4
    assert kind_weights(rows, 0.4) == pytest.approx([0.2, 0.2, 0.4, 0.2])
    with pytest.raises(DataError, match=r"0 of the 2 pairs are of harmless prompts.*completions\.samples"):
        kind_weights(rows[:2], 0.4)
    with pytest.raises(DataError, match="1 of the 1 pairs are of harmless prompts"):
        kind_weights(rows[2:3], 0.4)


@pytest.mark.usefixtures("with_look_alikes")
def test_dpo_draws_the_share_and_publishes_the_best_checkpoint(pooled: Callable[..., Context]) -> None:
    """Of 17 pairs 5 are of harmless prompts: with a share of 10/17 each is there twice."""
    context = pooled("balanced", {"dpo.helpful_share": 10 / 17, "dpo.validation_prompts": 1, "dpo.epochs": 1})
    shown = build_dpo_checkpoint(context)
    assert (shown["pairs"], shown["pairs/helpful"], shown["steps"]) == (17, 10, 5)
    points = json.loads((context.out / "validation.json").read_text(encoding="utf-8"))
    assert [point["step"] for point in points["points"]] == [0, 3, 5]
    best = max(points["points"], key=lambda point: (point["composite"], point["step"]))
    assert points["chosen"] == shown["chosen_step"] == best["step"]


@pytest.mark.long
def test_a_resumed_dpo_gives_the_same_weights(pooled: Callable[..., Context]) -> None:
    undisturbed = pooled("undisturbed")
    build_dpo_checkpoint(undisturbed)
    with pytest.raises(Killed):
        build_dpo_checkpoint(pooled("killed", reporter=KillingReporter(7)))
    resumed = pooled("killed")
    build_dpo_checkpoint(resumed)
    assert any("DPO resumes from checkpoint-" in line for line in resumed.reporter.lines)
    one, other = weights(undisturbed), weights(resumed)
    assert all((one[name] == other[name]).all() for name in one)


def test_pairs_that_are_too_long_are_counted_and_named(pooled: Callable[..., Context]) -> None:
    context = pooled("long", {"dpo.max_length": 40, "dpo.epochs": 1})
    shown = build_dpo_checkpoint(context)
    assert (shown["rows_cut"], shown["rows_dropped"]) == (18, 0)
    assert any(
        "pairs of 18 prompts are cut off at the end in 40 tokens: helpful/" in line for line in context.reporter.lines
    )


def test_pairs_without_room_name_the_setting_of_dpo(pooled: Callable[..., Context]) -> None:
    with pytest.raises(DataError, match=r"DPO would learn nothing of them .*raise dpo\.max_length"):
        build_dpo_checkpoint(pooled("no_room", {"dpo.max_length": 8}))


def test_without_a_wrong_completion_there_is_nothing_to_prefer(pooled: Callable[..., Context]) -> None:
    with pytest.raises(DataError, match=r"nothing to prefer .* take dpo out of baselines"):
        build_dpo_checkpoint(pooled("none", wrong=False))


def test_pairs_of_a_category_that_is_left_out_are_not_learned(pooled: Callable[..., Context]) -> None:
    shown = build_dpo_checkpoint(pooled("left_out", {"leave_out.categories": ["insult"], "dpo.epochs": 1}))
    assert (shown["pairs"], shown["pairs/helpful"], shown["pairs/mental_health"]) == (12, 6, 6)


def test_pairs_of_unsafe_prompts_alone_are_said(pooled: Callable[..., Context]) -> None:
    context = pooled("unsafe_alone", {"dpo.epochs": 1})
    inputs = {name: path for name, path in context.inputs.items() if name != "completion_pool_helpful"}
    build_dpo_checkpoint(dataclasses.replace(context, inputs=inputs))
    assert any("all 12 pairs are of unsafe prompts" in line for line in context.reporter.lines)


@pytest.mark.long
def test_grpo_without_scaling_is_dr_irl_with_alpha_one(contexts: Any) -> None:
    settings = {"policy.steps": 2, "policy.save_steps": 2}
    baseline, same, scaled = (contexts.make(name, settings) for name in ("baseline", "same", "scaled"))
    shown = build_grpo_checkpoint(baseline)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    build_policy_checkpoint(dataclasses.replace(same, config=contexts.config({**settings, "hardness.combine": "none"})))
    build_policy_checkpoint(scaled)
    assert all(torch.equal(weights(baseline)[name], weight) for name, weight in weights(same).items())
    assert not all(torch.equal(weights(baseline)[name], weight) for name, weight in weights(scaled).items())
    assert "where every prompt counts the same" in (baseline.out / "README.md").read_text(encoding="utf-8")


def test_the_control_is_rewarded_by_the_judge(contexts: Any) -> None:
    """Rewards are 1 or -1, so the mean over a step of whole completions is one of few values."""
    context = contexts.make("control", {"policy.steps": 1})
    shown = build_verifiable_checkpoint(context)
    rows = context.config.policy.prompts_per_step * context.config.policy.num_generations
    assert (shown["first_reward"] + 1) / 2 * rows == pytest.approx(
        round((shown["first_reward"] + 1) / 2 * rows), abs=1e-4
    )
    assert "No reward is learned" in (context.out / "README.md").read_text(encoding="utf-8")


def test_the_control_of_propositions_needs_no_reward_model(contexts: Any, tmp_path: Path) -> None:
    """Declining is worth 1 for harmful prompts and nothing for harmless ones."""
    kinds = {}
    for kind, worth in ((HARMFUL, 1.0), (HARMLESS, 0.0)):
        weights_of = {**dict.fromkeys(PROPOSITIONS, 0.0), "finished": 0.5, "declines": worth}
        kinds[kind] = KindWeights(weights_of, (1, 50), 0.0, 1.0, -1.0)
    PropositionReward(kinds).save(tmp_path)
    inputs = {name: path for name, path in contexts.inputs.items() if not name.startswith("reward_model")}
    context = contexts.make("said", {"policy.steps": 1}, inputs={**inputs, "proposition_reward": tmp_path})
    shown = build_propositions_checkpoint(context)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    assert "readable propositions" in (context.out / "README.md").read_text(encoding="utf-8")
    scorer = load_scorer(contexts.make("own", {"policy.reward": "propositions"}, inputs=context.inputs))
    said = [[{"role": "assistant", "content": text}] for text in (REFUSAL, REFUSAL, "Bake it for an hour")]
    asked = [[{"role": "user", "content": "How?"}]] * 3
    assert scorer.reward(asked, said, category=["insult", "helpful", "insult"]) == [1.5, 0.5, 0.0]


def test_rloo_is_scaled_by_alpha_and_alone_is_not(contexts: Any) -> None:
    settings = {"policy.steps": 2, "policy.save_steps": 2}
    plain, scaled = contexts.make("rloo", settings), contexts.make("rloo_s", settings)
    shown, other = build_rloo_checkpoint(plain), build_rloo_s_checkpoint(scaled)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    assert other["alpha_min"] < other["alpha_max"]
    assert not all(torch.equal(weights(plain)[name], weight) for name, weight in weights(scaled).items())
    assert "RLOO" in (plain.out / "README.md").read_text(encoding="utf-8")


def test_one_reward_model_can_serve_all_categories(contexts: Any) -> None:
    inputs = {**contexts.inputs, "joint_reward_model": contexts.inputs["reward_model_insult"]}
    context = contexts.make("joint", {"policy.steps": 1}, inputs=inputs)
    shown = build_joint_checkpoint(context)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    scorer = load_scorer(context)
    texts = [[{"role": "assistant", "content": "I will not help with that."}]] * 3
    asked = [[{"role": "user", "content": "How?"}]] * 3
    one, two, three = scorer.reward(asked, texts, category=["insult", "mental_health", "helpful"])
    assert one == two == three
    separate = load_scorer(contexts.make("separate"))
    assert len(set(separate.reward(asked, texts, category=["insult", "mental_health", "helpful"]))) == 3
    assert "single reward model" in (context.out / "README.md").read_text(encoding="utf-8")


def test_a_seed_of_its_own_changes_one_training_alone(contexts: Any) -> None:
    """`policy.seed: 5` trains as `seed: 5` would, and -1 as the seed of the run."""
    made = {
        name: contexts.make(name, {"policy.steps": 1, **settings})
        for name, settings in (("run", {}), ("same", {"policy.seed": 0}), ("other", {"policy.seed": 5}))
    }
    for context in made.values():
        build_policy_checkpoint(context)
    found = {name: weights(context) for name, context in made.items()}
    assert all(torch.equal(found["run"][name], weight) for name, weight in found["same"].items())
    assert not all(torch.equal(found["run"][name], weight) for name, weight in found["other"].items())
    with pytest.raises(ConfigError, match=r"policy\.seed is -2"):
        contexts.config({"policy.seed": -2})


ROWS = [{"prompt_id": name} for name in "abcd"]


@pytest.mark.parametrize(
    ("given", "drawn"),
    [([1, 1, 1, 1], "abcd"), ([2, 2, 2, 2], "abcd"), ([2, 0, 1, 1], "aacd"), ([0, 0, 0, 3], "dddd")],
)
def test_rows_are_drawn_by_their_weight(given: list[float], drawn: str) -> None:
    """Four draws: a row of weight w is there 4 w / sum of all weights times."""
    for seed in range(5):
        assert "".join(row["prompt_id"] for row in drawn_by_weight(ROWS, given, seed)) == drawn


def test_rows_of_broken_weights_are_drawn_in_expectation() -> None:
    """Weights 1.5, 0.5, 1, 1: the first is drawn once or twice, half of the time each."""
    counts = [
        sum(row["prompt_id"] == "a" for row in drawn_by_weight(ROWS, [1.5, 0.5, 1, 1], seed)) for seed in range(400)
    ]
    assert set(counts) == {1, 2}
    assert sum(counts) / 400 == pytest.approx(1.5, abs=0.08)


def test_dpo_s_draws_the_pairs_of_hard_prompts_more_often(
    pooled: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first unsafe training prompt has alpha 3, all others 0, harmless ones 1: 6 + 3 weights for 18 draws."""
    context = pooled("weighted", {"dpo.epochs": 1})
    rows = read_table(context.inputs[dataset_name("insult")] / "rows.parquet")
    hard = next(row["prompt_id"] for row in rows if row["split"] == "train")
    unsafe = [
        row["prompt_id"]
        for category in ("insult", "mental_health")
        for row in read_table(context.inputs[dataset_name(category)] / "rows.parquet")
    ]
    alpha = {**dict.fromkeys(unsafe, 0.0), hard: 3.0}
    monkeypatch.setattr("drirl_core.policy.dpo.alpha_of_prompts", lambda _: alpha)
    shown = build_dpo_s_checkpoint(context)
    assert (shown["pairs"], shown["pairs/helpful"], shown["pairs/insult"]) == (18, 12, 6)
    assert "pairs/mental_health" not in shown
