"""Train assets of one configuration in any number of processes, and compare the results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

from drirl_core.completions.stage import SCHEMA
from drirl_core.demonstrations.publish import ROWS
from drirl_core.graph.build import context_of
from drirl_core.graph.layout import dataset_name
from drirl_core.graph.processes import Job, build_together
from drirl_core.graph.record import lazy
from drirl_core.graph.stages import STAGES
from drirl_core.policy.training import read_log
from drirl_core.project import Project
from drirl_core.store.artifacts import Workspace
from drirl_core.store.tables import read_table, write_table
from drirl_core.testing import RecordingReporter

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


def made_runs(contexts: Any, tmp_path: Path) -> Runs:
    """Return runs over data sets with twins and a look-alike for validation, a pool with one wrong completion per prompt, rewards."""
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
