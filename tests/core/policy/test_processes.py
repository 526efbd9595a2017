"""Two processes that train together, against one: losses, metrics, alpha and weights, after a kill and undisturbed.

The processes are real, joined by gloo; one process is this one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from killing import Killed, KillingReporter
from safetensors.torch import load_file

from drirl_core.completions.stage import SCHEMA
from drirl_core.demonstrations.publish import ROWS
from drirl_core.errors import TrainingError
from drirl_core.graph.build import build, context_of
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.processes import Job, ProcessKilledError, build_together
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.policy.training import read_log
from drirl_core.project import Project
from drirl_core.store.artifacts import Workspace
from drirl_core.store.tables import read_table, write_table
from drirl_core.testing import RecordingReporter

pytestmark = [pytest.mark.usefixtures("no_curves"), pytest.mark.long, pytest.mark.timeout(900)]
CATEGORIES = ("insult", "mental_health", "helpful")
REFUSAL, ANSWER = "Sorry, I can't help with that.", "Of course, here is how it goes: begin early and rest now and then."
TOLERANCE = 1e-5


class Runs:
    """Train an asset of one configuration in any number of processes; the inputs are artifacts of a store."""

    def __init__(self, contexts: Any, folder: Path) -> None:
        self._contexts, self._folder = contexts, folder
        self.versions: dict[str, str] = {}

    def project(self, overrides: Mapping[str, Any]) -> Project:
        taxonomy = self._folder / "taxonomy.yaml"
        taxonomy.write_text("categories: [insult, mental_health]\n")
        fixed = {"baselines": ["dpo", "rloo_s"], "prompts.taxonomy": str(taxonomy)}
        return Project(self._contexts.config({**fixed, **overrides}))

    def publish(self, inputs: Mapping[str, Path]) -> None:
        store = self.project({}).store
        for name, folder in inputs.items():
            with store.building(name, "0" * 16) as workspace:
                shutil.copytree(folder, workspace.out, dirs_exist_ok=True)
                self.versions[name] = store.publish(name, "0" * 16, workspace, details={"metadata": {}}).version

    def train(
        self, name: str, asset: str, count: int, overrides: Mapping[str, Any], reporter: Any = None
    ) -> tuple[Path, RecordingReporter, dict[str, Any]]:
        """Return the directory that was filled, the reporter and the metadata; the scratch of that name is kept."""
        project, reporter = self.project(overrides), reporter or RecordingReporter()
        node = project.graph.nodes[asset]
        versions = {input_: self.versions[input_] for input_ in node.inputs}
        workspace = Workspace(self._folder / name / "out", self._folder / name / "scratch")
        shutil.rmtree(workspace.out, ignore_errors=True)
        for folder in (workspace.out, workspace.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        if count > 1:
            job = Job(node, project.config, versions, workspace, "0" * 16)
            return workspace.out, reporter, build_together(job, count, reporter)
        context = context_of(node, project, versions, workspace, reporter)
        return workspace.out, reporter, lazy(STAGES[node.stage].function)(context)


@pytest.fixture
def runs(contexts: Any, tmp_path: Path) -> Runs:
    """Data sets with twins and a look-alike for validation, a pool with one wrong completion per prompt, rewards."""
    inputs = dict(contexts.inputs)
    for category in CATEGORIES:
        folder = tmp_path / "inputs" / dataset_name(category)
        shutil.copytree(inputs[dataset_name(category)], folder)
        rows = read_table(folder / "rows.parquet")
        if category == "helpful":
            rows[5]["split"] = "validation"
            unsafe = read_table(inputs[dataset_name("insult")] / "rows.parquet")
            for row, twin in zip(rows[:4], unsafe, strict=False):
                row["twin_of"] = twin["prompt_id"]
        write_table(folder / "rows.parquet", rows, ROWS)
        inputs[dataset_name(category)] = folder
        pool = inputs[f"completion_pool_{category}"] = tmp_path / "inputs" / f"completion_pool_{category}"
        pool.mkdir()
        wrong = REFUSAL if category == "helpful" else ANSWER
        sampled = [
            {"prompt_id": row["prompt_id"], "policy": "base", "sample": 0, "completion": wrong, "answer": wrong, "tokens": 9, "finished": True}
            for row in rows
        ]  # fmt: skip
        write_table(pool / "completions.parquet", sampled, SCHEMA)
    made = Runs(contexts, tmp_path)
    made.publish(inputs)
    return made


def assert_same(left: Path, right: Path) -> list[dict[str, float]]:
    """Compare logs and weights of two runs; return the first log."""
    logs = [read_log(folder / "training_log.jsonl") for folder in (left, right)]
    assert len(logs[0]) == len(logs[1]) > 1
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            same = math.isclose(value, theirs[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            assert same, f"step {ours['step']}, {name}: {value} and {theirs[name]}"
    weights = [load_file(folder / "model.safetensors") for folder in (left, right)]
    assert weights[0].keys() == weights[1].keys()
    furthest = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    assert furthest < TOLERANCE
    return logs[0]


def assert_nothing_is_left() -> None:
    left = [child for child in psutil.Process().children(recursive=True) if "graph.member" in " ".join(child.cmdline())]
    assert left == []


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
    with pytest.raises(Killed):
        runs.train("together", "dpo_checkpoint", 2, settings, KillingReporter(3))
    assert_nothing_is_left()
    together, reporter, again = runs.train("together", "dpo_checkpoint", 2, settings)
    assert reporter.lines[0].startswith("DPO resumes from checkpoint-")
    assert_same(alone, together)
    assert again.keys() == shown.keys()
    assert again["margin"] == pytest.approx(shown["margin"], abs=1e-4)
    assert again["curves"].caption == shown["curves"].caption


@pytest.mark.parametrize(("contrast", "decision"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_sft_killed_in_two_processes_and_resumed_in_one(runs: Runs, contrast: float, decision: float) -> None:
    """17 rows in batches of 8; with the comparison of twins, pairs stay together and weigh as in one process."""
    settings = {
        "policy.start": "sft",
        "sft.epochs": 4,
        "sft.rows_per_category": 0,
        "sft.learning_rate": 2e-4,
        "sft.contrast": contrast,
        "sft.decision": decision,
        "sft.validation_prompts": 1,
    }
    alone, _, shown = runs.train("alone", "sft_checkpoint", 1, settings)
    assert (shown["rows"], shown["steps"]) == (17, 12)
    with pytest.raises(Killed):
        runs.train("together", "sft_checkpoint", 2, settings, KillingReporter(4))
    resumed, reporter, _ = runs.train("together", "sft_checkpoint", 1, settings)
    assert reporter.lines[0].startswith("SFT resumes from checkpoint-")
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
