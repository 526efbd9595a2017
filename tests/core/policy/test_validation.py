"""Validation during training: points by hand, the best checkpoint, and a resumed run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.benchmarks.refusal_score import refusal_margins, refusal_scores
from drirl_core.errors import DataError
from drirl_core.models.loading import load_policy
from drirl_core.models.sampling.decode import Completion
from drirl_core.policy import validation
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.sft import build_sft_checkpoint
from drirl_core.policy.validation import ValidationPoint, validation_prompts

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Begin early, take your time, and ask a friend."
LOOP = "I won't help with that, " * 6
REPLIES = {True: REFUSAL, False: ANSWER, None: LOOP}
SETTINGS = {"policy.validation_prompts": 2, "policy.save_steps": 2}


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[list[bool | None]]:
    """Replies by hand: the next entry says whether unsafe prompts and look-alikes are refused; None is a loop."""
    script: list[list[bool | None]] = []

    def scripted(policy: Any, texts: list[str], keys: list[str], settings: Any) -> list[Completion]:
        assert not policy.model.training
        refuses = script[0].pop(0)
        if not script[0]:
            script.pop(0)
        return [Completion(REPLIES[refuses], 8, True) for _ in texts]

    monkeypatch.setattr(validation, "decode", scripted)
    return script


def _weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def _same(left: Path, right: Path) -> bool:
    ours, theirs = _weights(left), _weights(right)
    return all((ours[name] == theirs[name]).all() for name in ours)


def test_the_composite_by_hand() -> None:
    assert ValidationPoint(4, 0.9, 0.25, 0.0).composite == pytest.approx(0.65)


def test_prompts_are_those_of_the_validation_split(contexts: Any) -> None:
    """Row 6 of 8 is the validation row of each data set; the helpful one's is a general prompt, so none is there."""
    with pytest.raises(DataError, match=r"policy\.validation_prompts is 4, .*look_alike"):
        validation_prompts(contexts.make("run"), 4, "policy.validation_prompts")


def test_prompts_by_kind(with_look_alikes: Any) -> None:
    found = validation_prompts(with_look_alikes.make("run"), 1, "")
    assert {kind: len(prompts) for kind, prompts in found.items()} == {"unsafe": 1, "look_alike": 1}
    found = validation_prompts(with_look_alikes.make("run"), 9, "")
    assert sorted(found["unsafe"]) == ["insult request number 6", "mental_health request number 6"]
    assert found["look_alike"] == ["helpful request number 5"]


@pytest.mark.usefixtures("no_curves")
def test_the_best_point_is_published(with_look_alikes: Any, refusals: list[list[bool | None]]) -> None:
    """Start: both refused, composite 0; step 2: unsafe alone, 1; step 4: both, 0. Step 2's weights are published."""
    plain = with_look_alikes.make("two", {"policy.steps": 2, "policy.save_steps": 2})
    refusals += [[True, True], [True, False], [True, True]]
    chosen = with_look_alikes.make("chosen", SETTINGS)
    shown = build_policy_checkpoint(chosen)
    assert shown["chosen_step"] == 2
    record = json.loads((chosen.out / "validation.json").read_text())
    assert [(p["step"], p["unsafe"], p["look_alike"]) for p in record["points"]] == [(0, 1, 1), (2, 1, 0), (4, 1, 1)]
    assert plain.config.policy.steps == 2  # another schedule of the learning rate, so its weights differ
    refusals += [[True, True], [True, True], [True, False]]
    last = with_look_alikes.make("last", SETTINGS)
    assert build_policy_checkpoint(last)["chosen_step"] == 4
    without = with_look_alikes.make("without", {"policy.save_steps": 2})
    build_policy_checkpoint(without)
    assert _same(last.out, without.out)  # validation changes nothing in training
    assert not _same(chosen.out, without.out)


def test_the_start_is_chosen_by_auc(
    with_look_alikes: Any, refusals: list[list[bool | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two unsafe prompts and one look-alike, over all of which the AUC is taken: 0 and 2 against 1 is 1/2, 2 and 3
    against 1 is 1, then 1/2 again; the replies of one prompt each would say the last step."""
    refusals += [[True, True], [True, True], [True, False]]
    margins = iter([[0.0, 2.0], [1.0], [2.0, 3.0], [1.0], [0.0, 2.0], [1.0]])
    asked: list[int] = []

    def by_hand(policy: Any, prompts: list[str], batch_size: int) -> np.ndarray:
        asked.append(len(prompts))
        return np.array(next(margins))

    monkeypatch.setattr(validation, "refusal_margins", by_hand)
    settings = {"sft.validation_prompts": 1, "sft.choose_by": "auc", "sft.epochs": 1}
    context = with_look_alikes.make("auc", settings)
    shown = build_sft_checkpoint(context)
    points = json.loads((context.out / "validation.json").read_text())["points"]
    assert [point["auc"] for point in points] == [0.5, 1.0, 0.5]
    assert shown["chosen_step"] == points[1]["step"]
    assert asked == [2, 1] * 3
    assert "AUC of the refusal score 1.000" in "\n".join(context.reporter.lines)


def test_margins_of_a_policy_in_training_are_those_of_the_kept_score(with_look_alikes: Any) -> None:
    """The same numbers as the benchmarks' score, which keeps its rows, and nothing is kept."""
    context = with_look_alikes.make("margins")
    policy = load_policy(context.config.models.policy, context.config.models)
    prompts = ["insult request number 6", "helpful request number 5", "a longer request of another kind"]
    kept = refusal_scores(context, context.config.models.policy, prompts)
    assert refusal_margins(policy, prompts, 64) == pytest.approx(kept, abs=1e-4)
    assert refusal_margins(policy, prompts, 15) == pytest.approx(kept, abs=1e-4)  # a prompt at a time


@pytest.mark.usefixtures("no_curves")
def test_a_refusal_that_loops_is_no_refusal(with_look_alikes: Any, refusals: list[list[bool | None]]) -> None:
    """Two unsafe prompts and one look-alike; at the last step the unsafe ones get loops: two of three replies."""
    refusals += [[True, True], [True, False], [None, False]]
    context = with_look_alikes.make("loops", SETTINGS)
    assert build_policy_checkpoint(context)["chosen_step"] == 2
    points = json.loads((context.out / "validation.json").read_text())["points"]
    assert [(p["unsafe"], p["unusable"]) for p in points] == [(1, 0), (1, 0), (0, pytest.approx(2 / 3))]
    assert "67% of the replies are unusable" in "\n".join(context.reporter.lines)


@pytest.mark.usefixtures("no_curves")
def test_validation_with_real_replies(with_look_alikes: Any) -> None:
    """The start and both checkpoints are measured by the policy's own greedy replies."""
    context = with_look_alikes.make("real", SETTINGS)
    shown = build_policy_checkpoint(context)
    record = json.loads((context.out / "validation.json").read_text())
    assert [point["step"] for point in record["points"]] == [0, 2, 4]
    assert record["chosen"] == shown["chosen_step"] in (0, 2, 4)
    assert sum("validation after step" in line for line in context.reporter.lines) == 3


@pytest.mark.usefixtures("no_curves")
@pytest.mark.long
def test_a_resumed_run_keeps_its_points_and_its_best_weights(
    with_look_alikes: Any, refusals: list[list[bool | None]]
) -> None:
    refusals += [[True, True], [True, False], [True, True]]
    uninterrupted = with_look_alikes.make("uninterrupted", SETTINGS)
    build_policy_checkpoint(uninterrupted)
    refusals += [[True, True], [True, False]]
    with pytest.raises(Killed):
        build_policy_checkpoint(with_look_alikes.make("killed", SETTINGS, reporter=KillingReporter(3)))
    refusals += [[True, True]]
    resumed = with_look_alikes.make("killed", SETTINGS)
    assert build_policy_checkpoint(resumed)["chosen_step"] == 2
    assert (resumed.out / "validation.json").read_bytes() == (uninterrupted.out / "validation.json").read_bytes()
    assert _same(resumed.out, uninterrupted.out)


SFT = {
    "sft.epochs": 1,
    "sft.rows_per_category": 0,
    "sft.batch_size": 6,
    "sft.learning_rate": 0.01,
    "sft.validation_prompts": 2,
}


def _of_data_sets(context: Any) -> Any:
    """Leave a context the inputs that the graph gives to supervised fine-tuning."""
    inputs = {name: path for name, path in context.inputs.items() if "dataset" in name}
    return dataclasses.replace(context, inputs=inputs)


@pytest.mark.usefixtures("no_curves")
def test_supervised_fine_tuning_publishes_its_best_point_too(
    with_look_alikes: Any, refusals: list[list[bool | None]]
) -> None:
    """Five plus six plus six training rows make three steps, of which two are measured; the second is the best."""
    refusals += [[False, False], [True, False], [True, True]]
    chosen = _of_data_sets(with_look_alikes.make("sft_chosen", SFT))
    shown = build_sft_checkpoint(chosen)
    assert not refusals and shown["chosen_step"] == 2
    record = json.loads((chosen.out / "validation.json").read_text())
    assert [(p["step"], p["composite"]) for p in record["points"]] == [(0, 0), (2, 1), (3, 0)]
    refusals += [[False, False], [True, True], [True, False]]
    last = _of_data_sets(with_look_alikes.make("sft_last", SFT))
    assert build_sft_checkpoint(last)["chosen_step"] == 3
    without = _of_data_sets(with_look_alikes.make("sft_without", {**SFT, "sft.validation_prompts": 0}))
    assert "chosen_step" not in build_sft_checkpoint(without)
    assert _same(last.out, without.out)  # validation changes nothing in training
    assert not _same(chosen.out, without.out)
