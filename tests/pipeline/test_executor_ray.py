"""Steps on a real Ray head of this machine: they make what they make in one process."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import dagster as dg
import pytest
import stub_stages
from places import FOLDER, ROOT

from drirl_core.graph.build import build
from drirl_core.graph.versions import source_version
from drirl_core.reporting import SilentReporter
from pipeline.instance.settings import load
from pipeline.wiring.resolve import recorded_version

pytest.importorskip("dagster_ray")
pytest.importorskip("ray")

ASSETS = ("prompt_pool", "safety_dataset_insult", "safety_dataset_harm", "helpful_dataset", "sft_checkpoint")
# Else Ray puts the machine's own address in the place of 127.0.0.1; the option that does it was made for other systems.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
START_S, STOP_S, RUN_S = 120, 60, 600


@pytest.fixture
def head():
    """Address of a Ray head with two cores and one GPU, which exists in its books only."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets need a short path
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    port, gcs, client = _free_port(), _free_port(), _free_port()
    command = [
        Path(sys.executable).parent / "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--num-gpus=1",
        "--node-ip-address=127.0.0.1",
    ]
    command += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port}",
        f"--port={gcs}",
        f"--ray-client-server-port={client}",
        f"--temp-dir={folder}",
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **LOOPBACK, "PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, folder / "head.log")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        sys.stdout.write((folder / "head.log").read_text())  # shown when the test fails
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/version", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"Ray did not start:\n{log.read_text()}")


@pytest.mark.slow
@pytest.mark.timeout(START_S + RUN_S + STOP_S)
def test_steps_on_ray_make_what_they_make_in_one_process(head, home, tmp_path, stubbed):
    execution = {"executor": "ray", "ray": {"address": head}, "gpu": {"count": 1, "memory_gib": 0.25}}
    file = stub_stages.write_settings(tmp_path, execution=execution)
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "stub_location",
        "-d",
        str(FOLDER),
        "--select",
        ",".join(ASSETS),
    ]
    environment = {**os.environ, "DRIRL_CONFIG": str(file)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_S)

    assert done.returncode == 0, done.stderr
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        lines = [entry.user_message for entry in instance.all_logs(run.run_id)]
        recorded = {name: recorded_version(instance, name) for name in ASSETS}
    assert [line for line in lines if line == "Starting execution with step handler RayStepHandler."]
    assert recorded == _versions_in_this_process(file, tmp_path / "here")
    assert "GPUs: 0" in lines  # Ray lent the heavy step its one GPU


def _versions_in_this_process(file: Path, root: Path) -> dict[str, str]:
    project = load(file, {"root": str(root), "execution.executor": "in_process"})
    graph = project.graph
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    for name in ASSETS:
        artifact, reused, _ = build(graph.nodes[name], project, versions, SilentReporter())
        assert not reused
        versions[name] = artifact.version
    return {name: versions[name] for name in ASSETS}
