"""A training in processes that torchrun started, against one process; and what is refused before any of them meets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared_runs import Runs, assert_same, made_runs

from drirl_core.config import resolved
from drirl_core.errors import ConfigError
from drirl_core.graph.build import build
from drirl_core.graph.launched import build_launched
from drirl_core.testing import RecordingReporter

PLACE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
_EACH = """
import json, os, pathlib, sys
from drirl_core.config import from_resolved
from drirl_core.graph.launched import build_launched
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
given = json.loads(pathlib.Path(sys.argv[1]).read_text())
project = Project(from_resolved(given["config"]))
made = build_launched(given["asset"], project, os.environ, SilentReporter(), given["versions"])
assert (made is not None) == (os.environ["RANK"] == "0")
"""


@pytest.fixture
def runs(contexts: Any, tmp_path: Path) -> Runs:
    return made_runs(contexts, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_sft_by_torchrun(runs: Runs, tmp_path: Path, sharding: str) -> None:
    """The number of processes is that of the launcher, and the artifact is the one that a run finds."""
    settings = {"policy.start": "sft", "sft.epochs": 2, "sft.rows_per_category": 0, "sft.learning_rate": 2e-4}
    alone, _, _ = runs.train("alone", "sft_checkpoint", 1, settings)
    project = runs.project({**settings, "execution.sharding": sharding})
    node = project.graph.nodes["sft_checkpoint"]
    versions = {name: runs.versions[name] for name in node.inputs}
    (tmp_path / "each.py").write_text(_EACH)
    given = {"config": resolved(project.config), "asset": node.name, "versions": versions}
    (tmp_path / "given.json").write_text(json.dumps(given))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "each.py"), str(tmp_path / "given.json")], check=True, timeout=800
    )
    found, reused, _ = build(node, runs.project(settings), versions, RecordingReporter())
    assert reused
    assert_same(alone, found.path)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"RANK, WORLD_SIZE, .* are not in the environment.*torchrun"),
        (PLACE | {"ACCELERATE_USE_FSDP": "true"}, r"started with --use_fsdp; execution\.sharding"),
        (PLACE | {"ACCELERATE_MIXED_PRECISION": "bf16"}, r"started with --mixed_precision; models\.dtype"),
        (PLACE | {"WORLD_SIZE": "3"}, r"3 processes were started, but sft\.batch_size is 8.*start 2"),
    ],
)
def test_what_is_refused(contexts: Any, variables: dict[str, str], message: str, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({"policy.start": "sft"})
    with pytest.raises(ConfigError, match=message):
        build_launched("sft_checkpoint", project, variables, RecordingReporter())


def test_one_process_has_nothing_to_divide(contexts: Any, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({"execution.sharding": "fsdp2"})
    with pytest.raises(ConfigError, match=r"divides weights among processes, but one process was started"):
        build_launched("policy_checkpoint", project, PLACE | {"WORLD_SIZE": "1"}, RecordingReporter())


def test_an_asset_that_is_no_shared_training_is_refused(contexts: Any, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({})
    with pytest.raises(ConfigError, match=r"'report' is no training .* share; .*policy_checkpoint"):
        build_launched("report", project, PLACE, RecordingReporter())
