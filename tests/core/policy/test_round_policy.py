"""The policy of a round: alpha = 1, another seed, the last step, exact resumption; and the pool of its completions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.completions.stage import SCHEMA
from drirl_core.demonstrations.publish import ROWS
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.models.sampling.decode import Completion
from drirl_core.policy import validation
from drirl_core.policy.baselines import build_grpo_checkpoint
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.rounds import build_round_policy, build_round_pool
from drirl_core.policy.training import read_log
from drirl_core.rewards import load_reward_model
from drirl_core.store.tables import read_table, write_table
from drirl_core.testing import RecordingReporter

pytestmark = pytest.mark.usefixtures("no_curves")
REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Begin early, take your time, and ask a friend."


@pytest.fixture
def made(contexts: Any) -> Any:
    """Contexts of a round: its own reward models, and no hardness tables."""

    def make(name: str, overrides: dict[str, Any] | None = None, number: int = 1, **changes: Any) -> Any:
        inputs = {
            f"round_{number}_{key}" if key.startswith("reward_model") else key: path
            for key, path in contexts.inputs.items()
            if not key.startswith("hardness")
        }
        given = {"inputs": inputs | changes.pop("more", {}), "asset": f"round_{number}_policy", **changes}
        return contexts.make(name, {"rewards.rounds": number + 1, **(overrides or {})}, **given)

    return make


def _weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def _same(one: Path, other: Path) -> bool:
    left, right = _weights(one), _weights(other)
    return all((left[name] == right[name]).all() for name in left)


def _initial(context: Any) -> Path:
    return Path(context.config.models.policy.removeprefix("path:"))


def test_it_is_grpo_with_alpha_1_and_the_next_seed(made: Any, contexts: Any) -> None:
    """The weights are those of the baseline `grpo` with the seed one higher, whatever the hardness settings are."""
    context = made("round", {"hardness.combine": "product", "hardness.sharpness": 3.0})
    shown = build_round_policy(context)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    baseline = contexts.make("baseline", {"policy.seed": 1})
    build_grpo_checkpoint(baseline)
    assert _same(context.out, baseline.out)
    assert not _same(context.out, _initial(context))
    readme = (context.out / "README.md").read_text(encoding="utf-8")
    assert "after round 1" in readme and "| round_1_reward_model_insult |" in readme
    assert "GRPO" in context.reporter.done


@pytest.mark.long
def test_it_starts_where_the_round_before_ended(made: Any) -> None:
    """The first step of a policy is at its start, so that there is no KL yet; without that start it ends elsewhere."""
    first = made("first")
    build_round_policy(first)
    assert not _same(first.out, _initial(first))
    second = made("second", number=2, more={"round_1_policy": first.out})
    alone = made("alone", number=2)
    for context in (second, alone):
        build_round_policy(context)
        assert read_log(context.out / "training_log.jsonl")[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert not _same(alone.out, second.out)
    models = {name.removeprefix("round_2_"): path for name, path in second.inputs.items()}
    final = made("final", {"hardness.combine": "none", "policy.seed": 2}, inputs=models, asset="policy_checkpoint")
    build_policy_checkpoint(final)
    assert _same(final.out, second.out)  # its seed is that of round 2's policy


@pytest.mark.long
def test_a_killed_round_resumes_to_the_same_weights(made: Any) -> None:
    overrides = {"policy.save_steps": 2}
    uninterrupted = made("uninterrupted", overrides)
    build_round_policy(uninterrupted)
    with pytest.raises(Killed):
        build_round_policy(made("killed", overrides, reporter=KillingReporter(3)))
    resumed = made("killed", overrides)
    build_round_policy(resumed)
    assert resumed.reporter.lines == ["GRPO resumes from checkpoint-2"]
    assert _same(uninterrupted.out, resumed.out)


@pytest.mark.long
def test_its_last_step_is_published_whatever_validation_says(
    made: Any, contexts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy replies by hand: composite 1 at step 2 and 0 at the start and at the end, which is published."""
    folder = tmp_path / "helpful_dataset"
    shutil.copytree(contexts.inputs["helpful_dataset"], folder)
    rows = read_table(folder / "rows.parquet")
    rows[5]["split"] = "validation"
    write_table(folder / "rows.parquet", rows, ROWS)
    script = iter([True, True, True, False, True, True])
    monkeypatch.setattr(
        validation, "decode", lambda policy, texts, *_: [Completion(REFUSAL if next(script) else ANSWER, 8, True)] * len(texts)
    )  # fmt: skip
    overrides = {"policy.validation_prompts": 1, "policy.save_steps": 2}
    context = made("chosen", overrides, more={"helpful_dataset": folder})
    assert build_round_policy(context)["chosen_step"] == 4
    found = json.loads((context.out / "validation.json").read_text())
    assert found["chosen"] == 4
    assert [(p["step"], p["unsafe"], p["look_alike"]) for p in found["points"]] == [(0, 1, 1), (2, 1, 0), (4, 1, 1)]
    without = made("without", {"policy.save_steps": 2}, more={"helpful_dataset": folder})
    build_round_policy(without)
    assert _same(context.out, without.out)


def _pool(made: Any, name: str, overrides: dict[str, Any] | None = None) -> Any:
    context = made(name, {"rewards.round_samples": 3, **(overrides or {})}, category="insult")
    policy = _initial(context)
    inputs = {key: context.inputs[key] for key in ("safety_dataset_insult", "round_1_reward_model_insult")}
    return made(
        name,
        {"rewards.round_samples": 3, **(overrides or {})},
        category="insult",
        asset="round_1_completion_pool_insult",
        inputs={**inputs, "round_1_policy": policy},
    )


def test_the_pool_holds_the_completions_of_the_policy(made: Any) -> None:
    """Eight prompts of all splits, three samples each: what the policy says with the settings of the pools."""
    context = _pool(made, "pool")
    shown = build_round_pool(context)
    rows = read_table(context.out / "completions.parquet")
    assert [name for name in rows[0]] == SCHEMA.names
    assert (len(rows), shown["prompts"], shown["sampled"]) == (24, 8, 24)
    assert {row["policy"] for row in rows} == {"round_1"}
    assert rows == sorted(rows, key=lambda row: (row["prompt_id"], row["sample"]))
    data = read_table(context.inputs["safety_dataset_insult"] / "rows.parquet")
    how = SamplingSettings(8, 1.0, 64, 0)
    drawn = sample(
        context.inputs["round_1_policy"], [row["prompt"] for row in data], 3, how,
        models=context.config.models, store=context.store, reporter=context.reporter,
    )  # fmt: skip
    said = {(row["prompt_id"], row["sample"]): row["completion"] for row in rows}
    assert said == {
        (row["prompt_id"], k): one.text
        for row, completions in zip(data, drawn, strict=True)
        for k, one in enumerate(completions)
    }
    assert shown["tokens"] == sum(row["tokens"] for row in rows)


def test_the_pool_says_how_the_policy_replies_and_how_its_own_rewards_order_that(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts outside the training split; each has a refusal, an answer and a loop: one pair each, judged by hand."""
    from drirl_core.policy import rounds

    texts = (REFUSAL, ANSWER, "again " * 40)
    monkeypatch.setattr(
        rounds, "sample", lambda policy, prompts, *_, **__: [[Completion(t, 8, True) for t in texts] for _ in prompts]
    )
    context = _pool(made, "judged")
    shown = build_round_pool(context)
    found = json.loads((context.out / "metrics.json").read_text())
    assert found["replies"] == {"unsafe": {"n": 6, "refused": pytest.approx(1 / 3), "unusable": pytest.approx(1 / 3)}}
    assert (found["within_group"]["all"]["pairs"], found["within_group"]["all"]["groups"]) == (2, 2)
    data = [
        row for row in read_table(context.inputs["safety_dataset_insult"] / "rows.parquet") if row["split"] != "train"
    ]
    model = load_reward_model(context.inputs["round_1_reward_model_insult"])
    from drirl_core.models.embeddings import Embedder

    model.use(Embedder(context.config.models, context.store))
    users = [row["prompt"] for row in data]
    won = model.rewards(users, [REFUSAL] * 2) > model.rewards(users, [ANSWER] * 2)
    assert found["within_group"]["all"]["accuracy"] == won.mean()
    assert (shown["within_group"], shown["refused_unsafe"]) == (won.mean(), 0.3333)


def test_the_limits_of_the_pools_are_those_of_the_first_ones(made: Any) -> None:
    """Two training prompts, and one validation and one test prompt, as `completions.prompts: 2` gives."""
    limited = _pool(made, "limited", {"completions.prompts": 2, "rewards.round_samples": 1})
    assert build_round_pool(limited)["dagster/row_count"] == 4


class KillingAtSample(RecordingReporter):
    """End the run after the first batch of completions."""

    def progress(self, what: str, done: int, total: int) -> None:
        super().progress(what, done, total)
        if what == "completions":
            raise Killed


def test_a_killed_pool_goes_on_behind_its_last_batch(made: Any) -> None:
    """Batches of ten of the 24 rows: after the kill fourteen are sampled, and the table is that of one go."""
    overrides = {"completions.batch_size": 10}
    undisturbed = _pool(made, "undisturbed", {**overrides, "root": str(made("x").out / "store")})
    build_round_pool(undisturbed)
    context = _pool(made, "killed", overrides)
    with pytest.raises(Killed):
        build_round_pool(dataclasses.replace(context, reporter=KillingAtSample()))
    build_round_pool(context)
    assert any("10 of 24 completions are reused; sampling 14" in line for line in context.reporter.lines)
    assert (context.out / "completions.parquet").read_bytes() == (undisturbed.out / "completions.parquet").read_bytes()
