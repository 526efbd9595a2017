"""One setting chooses where steps run; what it needs is asked for before anything runs."""

import importlib.util
import os
import subprocess
import sys

import pytest
import stub_stages
from places import ROOT
from typer.testing import CliRunner

from drirl_core.config import load_config
from drirl_core.errors import ConfigError
from pipeline import definitions
from pipeline.cli.doctor_checks import check_executor
from pipeline.cli.main import app
from pipeline.executors.choice import executor_of, pod_settings
from pipeline.instance.settings import config_for_nodes, load
from pipeline.running.run import run_pipeline

PODS = {"image": "drirl:1", "claim": "artifacts", "mount": "/artifacts"}


@pytest.fixture
def without_extras(monkeypatch):
    """An environment in which no optional package is installed."""
    find, absent = importlib.util.find_spec, {"dagster_ray", "ray", "dagster_k8s", "kubernetes"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))


def _settings(folder, **execution):
    return stub_stages.write_settings(
        folder, execution=execution, **({"root": "/artifacts/x"} if "kubernetes" in execution else {})
    )


@pytest.mark.parametrize("name", ["in_process", "multiprocess"])
def test_the_location_runs_steps_where_its_configuration_says(tmp_path, monkeypatch, name):
    monkeypatch.setenv("DRIRL_CONFIG", str(_settings(tmp_path, executor=name)))

    assert definitions.defs().executor.name == name


@pytest.mark.parametrize(
    ("name", "module", "executor"), [("ray", "dagster_ray", "ray"), ("kubernetes", "dagster_k8s", "k8s")]
)
def test_the_location_loads_with_an_executor_of_a_cluster(tmp_path, name, module, executor):
    pytest.importorskip(module)
    code = "import pipeline.definitions as d; r = d.defs(); r.get_repository_def(); print(r.executor.name)"
    file = _settings(tmp_path, executor=name, **({"kubernetes": PODS} if name == "kubernetes" else {}))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DRIRL_CONFIG": str(file)},
        capture_output=True,
        text=True,
    )

    assert done.stdout.strip() == executor, done.stderr


@pytest.mark.parametrize(
    ("name", "packages"), [("ray", "dagster_ray and ray"), ("kubernetes", "dagster_k8s and kubernetes")]
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, without_extras, name, packages):
    config = load(_settings(tmp_path, executor=name, **({"kubernetes": PODS} if name == "kubernetes" else {}))).config

    with pytest.raises(
        ConfigError, match=rf"is '{name}', which needs {packages}; install with: pip install .* \"drirl\[{name}\]\""
    ):
        executor_of(config)


def test_the_page_does_not_start_without_the_extra(tmp_path, without_extras):
    shown = CliRunner().invoke(app, ["dev", str(_settings(tmp_path, executor="ray"))])

    assert shown.exit_code == 1
    assert 'pip install -c constraints.txt "drirl[ray]"' in " ".join(shown.output.split())


def test_the_doctor_looks_for_the_extra(tmp_path, without_extras):
    near, far = (check_executor(load(_settings(tmp_path, executor=name)).config) for name in ("multiprocess", "ray"))

    assert (near.status, near.detail) == ("ok", "multiprocess")
    assert far.status == "fail"
    assert "drirl[ray]" in far.detail


def test_a_run_in_this_process_refuses_what_is_meant_for_a_cluster(tmp_path, home):
    file, message = (
        _settings(tmp_path, executor="ray"),
        r"is 'ray', and `drirl run` runs every step on this machine; start .* `drirl dev FILE`",
    )
    with pytest.raises(ConfigError, match=message):
        run_pipeline(file, on_event=print)
    shown = CliRunner().invoke(app, ["run", str(file)])

    assert shown.exit_code == 1
    assert "or run here with --set execution.executor=in_process" in " ".join(shown.output.split())
    assert not (tmp_path / "artifacts").exists()


def test_the_way_out_of_that_refusal_works(tmp_path, home, stubbed):
    outcome = run_pipeline(
        _settings(tmp_path, executor="ray"),
        select=["prompt_pool"],
        overrides={"execution.executor": "in_process"},
        on_event=print,
    )

    assert (outcome.success, list(outcome.built)) == (True, ["prompt_pool"])


def test_another_machine_finds_the_configuration_relative_to_its_own_project(monkeypatch):
    for given, named in [
        (str(ROOT / "configs" / "smoke.yaml"), "configs/smoke.yaml"),
        ("configs/smoke.yaml", "configs/smoke.yaml"),
        ("/data/mine.yaml", "/data/mine.yaml"),
    ]:
        monkeypatch.setenv("DRIRL_CONFIG", given)
        assert config_for_nodes() == named
    monkeypatch.delenv("DRIRL_CONFIG")
    assert config_for_nodes() == "configs/demo.yaml"


def test_what_is_not_said_about_pods_is_left_to_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIRL_CONFIG", "configs/mine.yaml")

    assert pod_settings(load(_settings(tmp_path, executor="kubernetes", kubernetes=PODS)).config) == {
        "job_image": "drirl:1",
        "env_vars": ["DRIRL_CONFIG=configs/mine.yaml"],
        "volumes": [{"name": "artifacts", "persistent_volume_claim": {"claim_name": "artifacts"}}],
        "volume_mounts": [{"name": "artifacts", "mount_path": "/artifacts"}],
    }
    bucket = stub_stages.write_settings(
        tmp_path, root="s3://bucket/x", execution={"executor": "kubernetes", "kubernetes": {"image": "drirl:1"}}
    )
    assert "volumes" not in pod_settings(load_config(bucket))
