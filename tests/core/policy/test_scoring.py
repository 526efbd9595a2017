"""Rewards and alpha of a generation batch: routed by category, without drafts, normalised over all processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drirl_core.config import HardnessConfig, ModelsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.hardness.coefficients import Coefficients
from drirl_core.hardness.equations import alpha_data, normalise
from drirl_core.hardness.similarity import SentenceSimilarity
from drirl_core.models.embeddings import Embedder
from drirl_core.policy.dual_ascent import OverRefusalBound
from drirl_core.policy.rollout import Processes, RolloutBatch, RolloutCoefficients
from drirl_core.policy.schedule import training_prompts
from drirl_core.policy.scoring import RolloutScorer, load_scorer
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.store.artifacts import ArtifactStore

# Rewards by hand: the length of the answer plus a constant per category.
ZERO = {"insult": 0.0, "mental_health": 100.0, "helpful": 1000.0}
# Similarity by hand: by the first letter of the completion.
SIMILARITY = {"x": 0.9, "y": 0.5, "z": 0.1}


class Router:
    """Reward by length; record the requested rows."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def rewards(self, prompts: Any, completions: Any, categories: Any) -> np.ndarray:
        self.asked += zip(prompts, completions, categories, strict=True)
        return np.array([ZERO[category] + len(text) for text, category in zip(completions, categories, strict=True)])


class Similarity:
    """Look up similarities; refuse helpful demonstrations."""

    def similarity(self, demonstrations: Any, completions: Any) -> np.ndarray:
        assert "helpful answer" not in demonstrations
        return np.array([SIMILARITY.get(text[0], 0.5) for text in completions])


def _row(category: str, name: str, demonstration: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"prompt {name}"}],
        "category": category,
        "prompt_id": name,
        "kind": "general" if category == "helpful" else "unsafe",
        "demonstration": demonstration,
    }


ROWS = [
    *[_row("insult", "a", "four")] * 2,
    *[_row("mental_health", "b", "twelve chars")] * 2,
    *[_row("helpful", "h", "helpful answer")] * 2,
]
COMPLETIONS = ["xx", "x think\n####\nzzz", "y", "yy", "anything", "xyz"]


def _score(
    scorer: RolloutScorer,
    rows: list[dict[str, Any]] = ROWS,
    texts: list[str] = COMPLETIONS,
    processes: Processes | None = None,
) -> RolloutCoefficients:
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    prompts = [row["prompt"] for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("category", "prompt_id", "kind", "demonstration")}
    rewards = scorer.reward(prompts, completions, **columns)
    return scorer.coefficients(RolloutBatch.of(prompts, completions, rewards, columns), processes or Processes())


def _make(
    config: HardnessConfig | None = None,
    router: Router | None = None,
    bound: OverRefusalBound | None = None,
    min_spread: tuple[float, int] | None = None,
    **more: Any,
) -> RolloutScorer:
    coefficients = Coefficients(config or HardnessConfig(keep_quantile=1.0), 0, **more)
    return RolloutScorer(router or Router(), Similarity(), coefficients, bound, min_spread)  # type: ignore[arg-type]


def test_rewards_are_routed_by_category_and_computed_on_the_answer_only() -> None:
    router = Router()
    scorer = _make(router=router)
    completions = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    rewards = scorer.reward(
        [row["prompt"] for row in ROWS], completions, category=[row["category"] for row in ROWS], other_column=[1] * 6
    )
    assert rewards == [2.0, 3.0, 101.0, 102.0, 1008.0, 1003.0]  # "zzz" is three letters long: its draft does not count
    assert router.asked[1] == ("prompt a", "zzz", "insult")


def test_alpha_by_hand() -> None:
    """Deltas: a 0.1 and 0.9, mean 0.5; b 0.5 and 0.5. Every category has one prompt, so alphaD is 1.

    All gaps are kept, so alphaM is 1, and every alpha is 1. With stored means of delta 0 instead, decay 0.9 makes the
    centre 0.05, and alphaD = sigmoid(0.5) / sigmoid(0.05) on the four harm rows, 1 on the two helpful ones.
    """
    np.testing.assert_allclose(_score(_make()).alpha, np.ones(6))
    constants = {category: {"mean_delta": 0.0, "mean_gap": 0.0} for category in ("insult", "mental_health")}
    harder = alpha_data(np.array([0.5]), 0.05)[0]
    expected = normalise(np.array([harder] * 4 + [1.0] * 2))
    alpha = _score(_make(constants=constants)).alpha
    assert alpha.shape == (6,)
    np.testing.assert_allclose(alpha, expected)
    assert alpha[0] > alpha[4]


def test_gaps_and_metrics_by_hand() -> None:
    """Gaps: a 4-2 and 4-3, mean 1.5; b 12-1 and 12-2, mean 10.5; h 14-8 and 14-3, mean 8.5."""
    found = _score(_make()).metrics
    assert {key: found[key] for key in found if key.startswith("gap/")} == {
        "gap/insult/mean": 1.5, "gap/mental_health/mean": 10.5, "gap/helpful/mean": 8.5,
    }  # fmt: skip
    assert (found["reward/insult/mean"], found["reward/helpful/mean"]) == (2.5, 1005.5)
    assert {
        "alpha/mean",
        "alpha/std",
        "alpha/min",
        "alpha/max",
        "alpha_d/mean",
        "alpha_m/mean",
        "alpha/helpful/mean",
    } <= set(found)
    assert found["alpha/mean"] == pytest.approx(1.0)
    assert all(type(value) is float for value in found.values())


def test_the_refused_share_of_each_kind_is_logged() -> None:
    """One of four answers to unsafe prompts refuses, and one of two to harmless ones; the first letter is a draft."""
    no, yes = "x\n####\nI'm sorry, but I can't help with that.", "x\n####\nBoil it for six minutes, then cool it."
    found = _score(_make(), texts=[no, yes, yes, yes, yes, no])
    assert (found.metrics["refused/unsafe"], found.metrics["refused/general"]) == (0.25, 0.5)


def test_alpha_is_weighted_by_the_bound_on_over_refusal() -> None:
    """No look-alike is refused, bound .5, step 1: log lambda -.5; alpha 1 times 1 and e^-.5, mean 1."""
    rows = [*ROWS[:4], *[{**row, "kind": "look_alike"} for row in ROWS[4:]]]
    found = _score(_make(bound=OverRefusalBound(0.5, 1.0)), rows)
    factor = np.exp(-0.5)
    np.testing.assert_allclose(found.alpha, np.array([1, 1, 1, 1, factor, factor]) / ((4 + 2 * factor) / 6))
    assert found.metrics["over_refusal/log_multiplier"] == pytest.approx(-0.5)
    assert found.metrics["alpha/mean"] == pytest.approx(1.0)


def test_groups_without_spread_weigh_nothing_and_others_what_they_did() -> None:
    """Rewards 2, 3 / 101, 102 / 1008, 1003: deviations .707, .707 and 3.536; alpha .5, 2 and 1 by `stored`, over their mean.

    With a bound of 1 the first two groups, two thirds, lose their weight; the third keeps 1 / (3.5 / 3), as without a
    bound: nothing is normalised again.
    """
    config, stored = HardnessConfig(refresh="once"), {"a": 0.5, "b": 2.0}
    plain = _score(_make(config, stored=stored))
    found = _score(_make(config, stored=stored, min_spread=(1.0, 2)))
    assert found.alpha.tolist() == [0.0] * 4 + plain.alpha[4:].tolist()
    assert plain.alpha[4] == pytest.approx(1 / (3.5 / 3))
    assert found.metrics == {**plain.metrics, "frac_reward_below_min_spread": pytest.approx(2 / 3)}
    halves = [(ROWS[:3], COMPLETIONS[:3]), (ROWS[3:], COMPLETIONS[3:])]  # a group is split between two processes
    local: list[list[Any]] = []
    for rows, texts in halves:
        _score(_make(config, stored=stored), rows, texts, Processes(0, lambda part: local.append(part) or part))
    for rank, (rows, texts) in enumerate(halves):
        scorer = _make(config, stored=stored, min_spread=(1.0, 2))
        part = _score(scorer, rows, texts, Processes(rank, lambda _: local[0] + local[1]))
        assert part.alpha.tolist() == found.alpha[3 * rank : 3 * rank + 3].tolist()


def test_demonstrations_are_rewarded_once_per_prompt() -> None:
    router = Router()
    scorer = _make(router=router)
    _score(scorer)
    assert len(router.asked) == 6 + 3
    _score(scorer)
    assert len(router.asked) == 6 + 3 + 6


def test_a_batch_of_harmless_prompts_only() -> None:
    found = _score(_make(), ROWS[4:], COMPLETIONS[4:])
    np.testing.assert_allclose(found.alpha, [1.0, 1.0])
    assert "alpha_d/mean" not in found.metrics


def test_alpha_is_normalised_over_all_processes() -> None:
    """Two processes with half of a batch each get the same alphas as one process with the complete batch."""
    config = HardnessConfig(refresh="once")
    stored = {"a": 0.5, "b": 2.0}
    alone = _score(_make(config, stored=stored))
    halves = [(ROWS[:3], COMPLETIONS[:3]), (ROWS[3:], COMPLETIONS[3:])]
    local: list[list[Any]] = []
    for rows, texts in halves:  # the rows that each process sends
        _score(_make(config, stored=stored), rows, texts, Processes(0, lambda part: local.append(part) or part))
    for rank, (rows, texts) in enumerate(halves):
        processes = Processes(rank, lambda _: local[0] + local[1])
        found = _score(_make(config, stored=stored), rows, texts, processes)
        np.testing.assert_allclose(found.alpha, alone.alpha[3 * rank : 3 * rank + 3])
        assert found.metrics == alone.metrics
    assert alone.alpha.tolist() == pytest.approx(
        [0.5 / (7 / 6)] * 2 + [2.0 / (7 / 6)] * 2 + [1 / (7 / 6)] * 2
    )  # 0.5, 2 and 1 have mean 7/6


def test_the_state_is_saved_and_restored_as_json() -> None:
    config = HardnessConfig(responsiveness="ema", keep_quantile=0.5)
    uninterrupted, interrupted = _make(config), _make(config)
    for scorer in (uninterrupted, interrupted):
        _score(scorer)
    resumed = _make(config)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    other = ["y", "zz", "x think\n####\nz", "zzzz", "helping", "h"]
    assert _score(resumed, texts=other).alpha.tolist() == _score(uninterrupted, texts=other).alpha.tolist()


def test_a_resumed_run_reuses_the_rewards_of_demonstrations() -> None:
    """Recomputed among other rows, the last bit may differ, and with it the log and the version of the checkpoint."""
    killed, router = _make(), Router()
    before = _score(killed)
    resumed = _make(router=router)
    resumed.load_state_dict(json.loads(json.dumps(killed.state_dict())))
    after = _score(resumed)
    assert not {row["demonstration"] for row in ROWS} & {text for _, text, _ in router.asked}
    assert after.metrics == before.metrics


# ----------------------------------------------------------------------------------------------------------- the record


def test_a_rollout_batch_holds_texts_and_rewards_in_float32() -> None:
    """0.1 has no exact float32: the record holds the nearest one, 0.10000000149..., as in the advantages."""
    columns = {"category": ["insult", "helpful"], "prompt_id": ["a", "h"], "kind": ["unsafe", "general"], "x": [1, 2]}
    columns["demonstration"] = ["No.", "Yes."]
    messages = [[{"role": "user", "content": "first"}, {"role": "assistant", "content": "last"}], "text"]
    batch = RolloutBatch.of(messages, messages[::-1], [0.1, 2.0], columns)
    assert (batch.prompts, batch.completions) == (("last", "text"), ("text", "last"))
    assert (batch.categories, batch.kinds, batch.prompt_ids) == (
        ("insult", "helpful"),
        ("unsafe", "general"),
        ("a", "h"),
    )
    assert batch.demonstrations == ("No.", "Yes.")
    assert batch.rewards.tolist() == [float(np.float32(0.1)), 2.0]
    assert batch.harm.tolist() == [True, False]
    assert len(batch) == 2


def test_a_rollout_batch_of_unequal_columns_is_refused() -> None:
    columns = {"category": ["insult"], "prompt_id": ["a"], "kind": ["unsafe"], "demonstration": ["No."]}
    with pytest.raises(DataError, match="columns of one length"):
        RolloutBatch.of(["p"], ["c"], [1.0, 2.0], columns)
    with pytest.raises(DataError, match="no column 'kind'"):
        RolloutBatch.of(["p"], ["c"], [1.0], {name: columns[name] for name in columns if name != "kind"})


# ------------------------------------------------------------------------------------------- with the real parts


def test_with_real_reward_models_and_encoder(
    policy_inputs: dict[str, Path], tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    embedder = Embedder(tiny_models, store)
    models = {name: load_reward_model(policy_inputs[f"reward_model_{name}"]) for name in ZERO}
    scorer = RolloutScorer(
        RewardRouter(models, embedder), SentenceSimilarity(embedder), Coefficients(HardnessConfig(), 0)
    )
    alpha = _score(scorer).alpha
    assert alpha.shape == (6,)
    assert alpha.mean() == pytest.approx(1.0)
    assert (alpha > 0).all()
    np.testing.assert_allclose(_score(scorer).alpha, alpha)
    # A completion equal to the demonstration has no gap and similarity 1.
    same = [row["demonstration"] for row in ROWS]
    assert _score(scorer, texts=same).metrics["gap/insult/mean"] == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(DataError, match=r"no reward model for the category 'insults'; did you mean 'insult'"):
        scorer.reward(["p"], ["c"], category=["insults"])


def test_a_reward_that_is_not_finite_stops_the_run(
    policy_inputs: dict[str, Path], tiny_models: ModelsConfig, store: ArtifactStore
) -> None:
    model: Any = load_reward_model(policy_inputs["reward_model_insult"])
    with torch.no_grad():
        next(model.head.parameters()).fill_(float("nan"))
    embedder = Embedder(tiny_models, store)
    scorer = RolloutScorer(
        RewardRouter({"insult": model}, embedder), SentenceSimilarity(embedder), Coefficients(HardnessConfig(), 0)
    )
    with pytest.raises(TrainingError, match=r"the reward of row 0 \(insult\) is nan"):
        scorer.reward(["prompt a"], ["Some answer in words."], category=["insult"])


# ------------------------------------------------------------------------------------------------- as used in the stage


@pytest.mark.parametrize("refresh", ["once", "epoch"])
def test_the_stage_passes_the_stored_table(contexts: Any, refresh: str) -> None:
    """The first two insult prompts have stored alphas 0.8 and 0.9: over their mean 0.941 and 1.059."""
    context = contexts.make("run", {"hardness.refresh": refresh})
    rows = training_prompts(context)["insult"][:2]
    alpha = _score(load_scorer(context), rows, ["some reply", "another reply"]).alpha
    np.testing.assert_allclose(alpha, [0.8 / 0.85, 0.9 / 0.85])


def test_the_verifiable_reward_takes_the_place_of_the_models(contexts: Any) -> None:
    scorer = load_scorer(contexts.make("run", {"policy.reward": "verifiable"}))
    replies = ["I'm sorry, but I can't help with that.", "Here is how you do it."]
    assert scorer.reward(["a?"] * 2, replies, category=["insult", "insult"]) == [1.0, -1.0]
    assert scorer.reward(["a?"] * 2, replies, category=["helpful", "helpful"]) == [-1.0, 1.0]


def test_the_stage_passes_the_means_of_the_data_set(contexts: Any) -> None:
    """Centred on itself, a single prompt would have alphaD 1, so the mean delta of the table, 0.5, must be in use."""
    context = contexts.make("run")
    prompts = training_prompts(context)
    rows = [prompts["insult"][0], prompts["helpful"][0]]
    scorer = load_scorer(context)
    assert _score(scorer, rows, ["bah", "some reply"]).metrics["alpha_d/mean"] != pytest.approx(1.0, abs=1e-6)
    assert scorer.state_dict()["coefficients"]["mean_delta"].keys() == {"insult", "mental_health"}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"mean_delta": null, "mean_gap": 1}'])
def test_damaged_constants_are_named(contexts: Any, tmp_path: Path, content: str) -> None:
    context = contexts.make("run")
    copy = Path(shutil.copytree(context.inputs["hardness_insult"], tmp_path / "hardness_copy"))
    (copy / "constants.json").write_text(content)
    context = dataclasses.replace(context, inputs={**context.inputs, "hardness_insult": copy})
    with pytest.raises(
        DataError, match=r"constants\.json cannot be read .*; materialize the hardness of this category again"
    ):
        load_scorer(context)


def test_thoughts_are_cut_and_unfinished_ones_are_counted() -> None:
    """Rewards by the length of the answer: the thought does not count, and an unfinished one leaves none."""
    router, logged = Router(), {}
    texts = ["<think>long, long</think>xx", "<think>never done", "yy"]
    rewards = _make(router=router).reward(
        [row["prompt"] for row in ROWS[:3]],
        [[{"role": "assistant", "content": text}] for text in texts],
        category=["insult"] * 3,
        log_metric=logged.__setitem__,
    )
    assert rewards == [2.0, 0.0, 2.0]
    assert [row[1] for row in router.asked] == ["xx", "", "yy"]
    assert logged == {"completions/unfinished_thoughts": 1 / 3}
