"""Two processes that hold a part of the frozen weights each, against one that holds them all.

The processes are real, joined by gloo; one process is this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, KillingReporter
from shared_runs import CATEGORIES, Runs, assert_nothing_is_left, assert_same, made_runs

from drirl_core.models.hidden_states import HiddenStates
from drirl_core.rewards.backbones.hidden_state import HiddenShape, HiddenStateRewardModel
from drirl_core.store.artifacts import ArtifactStore

pytestmark = [pytest.mark.usefixtures("no_curves"), pytest.mark.long, pytest.mark.timeout(900)]
SHARDED = {"execution.sharding": "fsdp2", "execution.processes": 2}
ADAPTERS = {"sft.lora.rank": 4, "dpo.lora.rank": 4, "policy.lora.rank": 4}


@pytest.fixture
def runs(contexts: Any, tmp_path: Path) -> Runs:
    return made_runs(contexts, tmp_path)


@pytest.mark.parametrize("decision", [0.0, 1.0])
def test_sft_killed_and_resumed_in_one_process(runs: Runs, decision: float) -> None:
    """17 rows in batches of 8; the checkpoint is chosen by validation prompts. One process holds all weights."""
    settings = {
        **ADAPTERS,
        "policy.start": "sft",
        "sft.epochs": 4,
        "sft.rows_per_category": 0,
        "sft.learning_rate": 2e-4,
        "sft.validation_prompts": 1,
        "sft.choose_by": "auc",
        "sft.decision": decision,
    }
    alone, _, shown = runs.train("alone", "sft_checkpoint", 1, settings)
    with pytest.raises(Killed):
        runs.train("together", "sft_checkpoint", 2, settings | SHARDED, KillingReporter(4))
    assert_nothing_is_left()
    together, reporter, again = runs.train("together", "sft_checkpoint", 1, settings)
    assert any(line.startswith("SFT resumes from checkpoint-") for line in reporter.lines)
    assert_same(alone, together)
    assert (again["rows"], again["steps"]) == (shown["rows"], shown["steps"])


def test_dpo_whose_last_batch_is_not_full(runs: Runs) -> None:
    """17 pairs, the last batch of an epoch holds one, and one process nothing; killed on the way, and resumed."""
    settings = {**ADAPTERS, "dpo.epochs": 3, "dpo.batch_size": 4, "dpo.learning_rate": 1e-3}
    alone, _, _ = runs.train("alone", "dpo_checkpoint", 1, settings)
    with pytest.raises(Killed):
        runs.train("together", "dpo_checkpoint", 2, settings | SHARDED, KillingReporter(4))
    together, reporter, _ = runs.train("together", "dpo_checkpoint", 2, settings | SHARDED)
    assert reporter.lines[0].startswith("DPO resumes from checkpoint-")
    assert_same(alone, together)


GROUPS = {
    **ADAPTERS,
    "policy.steps": 6,
    "policy.save_steps": 2,
    "policy.learning_rate": 1e-3,
    "policy.max_new_tokens": 6,
    "policy.validation_prompts": 1,
}


def test_grpo_killed_and_resumed(runs: Runs) -> None:
    """The completions are those of one process, although each token gathers the weights."""
    alone, _, _ = runs.train("alone", "policy_checkpoint", 1, GROUPS)
    with pytest.raises(Killed):
        runs.train("together", "policy_checkpoint", 2, GROUPS | SHARDED, KillingReporter(3))
    together, reporter, _ = runs.train("together", "policy_checkpoint", 2, GROUPS | SHARDED)
    assert any(line.startswith("GRPO resumes from checkpoint-") for line in reporter.lines)
    log = assert_same(alone, together)
    assert max(row["alpha/max"] for row in log) > 1.001  # else there would be nothing to compare
    assert (together / "validation.json").read_text() == (alone / "validation.json").read_text()
    assert_nothing_is_left()


def test_rloo_with_rewards_over_hidden_states(contexts: Any, tmp_path: Path) -> None:
    """The frozen policy that the rewards read is sharded too, and all processes read the rows of both."""
    source = HiddenStates(contexts.config().models, ArtifactStore(tmp_path / "rows"))
    for number, category in enumerate(CATEGORIES):
        torch.manual_seed(number)
        shape = HiddenShape(category, source.reference, source.digest, 1, 32, "prompt_and_completion", 4, 0.0)
        folder = tmp_path / f"head_{category}"
        folder.mkdir()
        HiddenStateRewardModel(shape, torch.zeros(64), torch.full((64,), 0.02)).save(folder)
        contexts.inputs = {**contexts.inputs, f"reward_model_{category}": folder}
    runs = made_runs(contexts, tmp_path)
    settings = GROUPS | {"policy.steps": 3, "policy.num_iterations": 2, "policy.micro_batch": 4}
    alone, _, _ = runs.train("alone", "rloo_s_checkpoint", 1, settings)
    together, _, _ = runs.train("together", "rloo_s_checkpoint", 2, settings | SHARDED)
    log = assert_same(alone, together)
    assert log[0]["reward_std"] > 0.01
