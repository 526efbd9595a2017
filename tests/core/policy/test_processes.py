"""Two processes that train together, against one: losses, metrics, alpha and weights, after a kill and undisturbed.

The processes are real, joined by gloo; one process is this one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import Killed, KillingReporter
from shared_runs import Runs, assert_nothing_is_left, assert_same, made_runs

from drirl_core.errors import TrainingError
from drirl_core.graph.build import build
from drirl_core.graph.processes import ProcessKilledError
from drirl_core.testing import RecordingReporter

pytestmark = [pytest.mark.usefixtures("no_curves"), pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def runs(contexts: Any, tmp_path: Path) -> Runs:
    return made_runs(contexts, tmp_path)


def killing(folder: Path) -> Callable[[str], dict[str, Any]]:
    """Return settings of a reward function that adds nothing, and kills the second process at its fifth call, once."""
    folder.mkdir()
    (folder / "killing_reward.py").write_text(
        "import os, pathlib, signal\n"
        "calls = 0\n"
        "def nothing(prompts, completions, categories):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    mark = pathlib.Path(__file__).with_suffix('.done')\n"
        "    if calls == 5 and os.environ.get('RANK') == '1' and not mark.exists():\n"
        "        mark.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [0.0] * len(prompts)\n"
    )
    return {"policy.own_rewards": [{"function": "killing_reward.nothing", "folder": str(folder), "weight": 1.0}]}


def test_grpo_in_two_processes_one_of_them_killed(runs: Runs, tmp_path: Path) -> None:
    """Killed in step 3 of 6, resumed from step 2: all is as in one process, alpha and its mean over both included."""
    settings = {
        "policy.steps": 6,
        "policy.save_steps": 2,
        "policy.over_refusal": 0.1,
        "policy.min_spread": 0.05,
        "policy.learning_rate": 1e-3,
        "policy.max_new_tokens": 6,
        "policy.validation_prompts": 1,
        **killing(tmp_path / "own"),
    }
    alone, _, shown = runs.train("alone", "policy_checkpoint", 1, settings)
    with pytest.raises(
        ProcessKilledError, match=r"process 2 of 2 .* killed by SIGKILL.*continues from its last checkpo"
    ):
        runs.train("together", "policy_checkpoint", 2, settings)
    assert_nothing_is_left()
    together, reporter, again = runs.train("together", "policy_checkpoint", 2, settings)
    assert "GRPO resumes from checkpoint-2" in reporter.lines
    assert [step for step, _ in reporter.steps] == [3, 4, 5, 6]
    log = assert_same(alone, together)
    for row in log:
        assert row["alpha/mean"] == pytest.approx(1.0)
    assert max(row["alpha/max"] for row in log) > 1.001  # else there would be nothing to compare
    assert again["tokens"] == shown["tokens"]
    assert (together / "validation.json").read_text() == (alone / "validation.json").read_text()
    assert_nothing_is_left()


def test_rloo_by_the_settings_of_a_run(runs: Runs) -> None:
    """`execution.processes` decides, and the artifact is found again with any number of processes."""
    settings = {
        "policy.steps": 3,
        "policy.save_steps": 3,
        "policy.learning_rate": 1e-3,
        "policy.max_new_tokens": 6,
        "policy.num_iterations": 2,
        "policy.micro_batch": 4,
    }
    alone, _, _ = runs.train("alone", "rloo_s_checkpoint", 1, settings)
    reporter = RecordingReporter()
    project = runs.project({**settings, "execution.processes": 2})
    made, reused, _ = build(project.graph.nodes["rloo_s_checkpoint"], project, runs.versions, reporter)
    assert not reused
    assert_same(alone, made.path)
    project = runs.project(settings)
    found, reused, _ = build(project.graph.nodes["rloo_s_checkpoint"], project, runs.versions, reporter)
    assert (found.version, reused) == (made.version, True)


def test_dpo_whose_last_batch_is_not_full(runs: Runs) -> None:
    """17 pairs, the last batch of an epoch holds one, and one process nothing; killed on the way, and resumed."""
    settings = {"dpo.epochs": 6, "dpo.batch_size": 4, "dpo.learning_rate": 1e-3}
    alone, _, shown = runs.train("alone", "dpo_checkpoint", 1, settings)
    assert (shown["pairs"], shown["steps"]) == (17, 30)
    with pytest.raises(Killed):  # after step 3, whose metrics arrive before its checkpoint is complete
        runs.train("together", "dpo_checkpoint", 2, settings, KillingReporter(4))
    assert_nothing_is_left()
    together, reporter, again = runs.train("together", "dpo_checkpoint", 2, settings)
    assert "DPO resumes from checkpoint-3" in reporter.lines
    assert_same(alone, together)
    assert again.keys() == shown.keys()
    assert again["margin"] == pytest.approx(shown["margin"], abs=1e-4)
    assert again["curves"].caption == shown["curves"].caption


@pytest.mark.parametrize(
    ("contrast", "decision", "prompts"), [(0.0, 0.0, 0), (1.0, 0.0, 0), (1.0, 1.0, 2), (0.0, 1.0, 0)]
)
def test_sft_killed_in_two_processes_and_resumed_in_one(
    runs: Runs, contrast: float, decision: float, prompts: int
) -> None:
    """17 rows in batches of 8; with the comparison of twins, pairs stay together and weigh as in one process."""
    settings = {
        "policy.start": "sft",
        "sft.epochs": 3,
        "sft.rows_per_category": 0,
        "sft.learning_rate": 2e-4,
        "sft.contrast": contrast,
        "sft.decision": decision,
        "sft.decision_prompts": prompts,
        "sft.validation_prompts": 1,
    }
    alone, _, shown = runs.train("alone", "sft_checkpoint", 1, settings)
    assert (shown["rows"], shown["steps"]) == (17, 9)
    with pytest.raises(Killed):
        runs.train("together", "sft_checkpoint", 2, settings, KillingReporter(4))
    resumed, reporter, _ = runs.train("together", "sft_checkpoint", 1, settings)
    assert any(line.startswith("SFT resumes from checkpoint-") for line in reporter.lines)
    assert_same(alone, resumed)


def test_an_error_of_one_process_is_that_of_the_build(runs: Runs, tmp_path: Path) -> None:
    """The second process finds a reward that is not finite, while the first waits for it."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "broken_reward.py").write_text(
        "import os\n"
        "def broken(prompts, completions, categories):\n"
        "    return [float('nan') if os.environ.get('RANK') == '1' else 0.0] * len(prompts)\n"
    )
    own = {"policy.own_rewards": [{"function": "broken_reward.broken", "folder": str(folder), "weight": 1.0}]}
    with pytest.raises(TrainingError, match=r"broken_reward\.broken returned nan"):
        runs.train("together", "policy_checkpoint", 2, {"policy.steps": 2, **own})
    assert_nothing_is_left()
