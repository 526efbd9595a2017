"""The image, compose.yaml and the values of Dagster's chart name things that exist, and agree with each other."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import Config, load_config
from pipeline.executors.choice import pod_settings
from pipeline.instance.home import POSTGRES_VARIABLE
from pipeline.instance.settings import CONFIG_VARIABLE

ROOT = Path(__file__).parents[1]
APP = "/opt/drirl"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((ROOT / "docs/examples/kubernetes/values.yaml").read_text(encoding="utf-8"))
PARTS_OF_CHART = {
    "global", "generatePostgresqlPasswordSecret", "postgresql", "dagster-user-deployments", "runLauncher", "dagsterDaemon",
    "ingress", "telemetry",
}  # fmt: skip
"""Keys at the top of the chart's values.yaml that are used here."""


def instructions() -> list[tuple[str, str, str]]:
    """Return stage, keyword and arguments of every instruction; continued lines are joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    found, stage = [], ""
    for line in filter(None, map(str.strip, lines.splitlines())):
        keyword, _, rest = line.partition(" ")
        stage = rest.rpartition(" AS ")[2] if keyword == "FROM" else stage
        found.append((stage, keyword, " ".join(rest.split())))
    return found


DOCKERFILE = instructions()
STAGES = {stage: rest.split(" AS ")[0] for stage, keyword, rest in DOCKERFILE if keyword == "FROM"}


def of(keyword: str, stage: str | None = None) -> list[str]:
    return [rest for own, kind, rest in DOCKERFILE if kind == keyword and stage in (None, own)]


def lineage(stage: str) -> list[str]:
    """Return a stage and those that it begins with."""
    return [stage, *lineage(STAGES[stage])] if STAGES.get(stage) in STAGES else [stage]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in of("ENV", "runtime") for pair in line.split())


def scripts() -> set[str]:
    return {entry.name for entry in importlib.metadata.entry_points(group="console_scripts")}


def kept_by_dockerignore(path: str) -> bool:
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        names = (path, path.partition("/")[0])
        if pattern and not line.startswith("#") and any(fnmatch.fnmatch(n, pattern.removeprefix("**/")) for n in names):
            kept = line.startswith("!")
    return kept


# --------------------------------------------------------------------------------------------------------------- image


def test_every_copied_path_is_in_the_repository_and_sent_to_the_builder() -> None:
    copied = [word for line in of("COPY", "build") for word in line.split()[:-1]]
    assert {"drirl_core", "pipeline", "configs", "constraints.txt", "pyproject.toml"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert kept_by_dockerignore(path), path
    named = [
        PROJECT["readme"],
        *PROJECT["license-files"],
        "constraints.txt",
        "pyproject.toml",
        "dagster.yaml",
        "workspace.yaml",
    ]
    assert set(named) <= set(copied)  # what installing and the Dagster home read


def test_secrets_and_results_stay_outside() -> None:
    for path in (".env", ".git", ".drirl", ".venv", "tests", "benchmarks", "docs"):
        assert not kept_by_dockerignore(path), path
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"(?i)(token|password|secret)\s*=", text)


def test_extras_and_python_are_those_of_the_project() -> None:
    extras = next(line for line in of("ARG", "build") if line.startswith("EXTRAS="))
    assert set(extras.partition("=")[2].split(",")) <= PROJECT["optional-dependencies"].keys()
    (python,) = [line.partition("=")[2] for stage, kind, line in DOCKERFILE if kind == "ARG" and not stage]
    least, most = re.findall(r"\d+\.(\d+)", PROJECT["requires-python"])
    assert int(least) <= int(python.partition(".")[2]) < int(most)
    (install,) = [line for line in of("RUN", "build") if "pip install" in line]
    assert "--constraint constraints.txt" in install and '".[$EXTRAS]"' in install and '"$TORCH_INDEX"' in install


def test_nothing_runs_as_root_and_state_is_in_one_volume() -> None:
    assert of("USER", "runtime") == ["10001:10001"]
    assert not [line for stage in STAGES if stage != "runtime" for line in of("USER", stage)]
    assert all("runtime" in lineage(stage) for stage in ("page", "daemon", "command"))
    assert any("--uid 10001" in line for line in of("RUN", "runtime"))
    variables = environment()
    assert of("VOLUME", "runtime") == [f"{APP}/.drirl"]
    for name in ("DAGSTER_HOME", "HF_HOME"):
        assert variables[name].startswith(f"{APP}/.drirl/")
    assert variables["DAGSTER_HOME"] == f"{APP}/.drirl/dagster_home"  # the project's own, which drirl prepares
    assert (ROOT / variables[CONFIG_VARIABLE].removeprefix(f"{APP}/")).is_file()


def test_commands_exist_and_what_serves_is_watched() -> None:
    commands = {stage: json.loads(of("CMD", stage)[0]) for stage in ("page", "daemon", "command")}
    assert {command[0] for command in commands.values()} <= scripts()
    for stage in ("page", "daemon"):
        words = commands[stage]
        assert (ROOT / words[words.index("-w") + 1]).is_file()
        assert of("HEALTHCHECK", stage)
    (port,) = of("EXPOSE", "page")
    assert commands["page"][commands["page"].index("-p") + 1] == port
    check = json.loads(of("HEALTHCHECK", "page")[0].partition("CMD ")[2])
    assert f"127.0.0.1:{port}/server_info" in check[-1]
    compile(check[-1], "healthcheck", "exec")
    assert json.loads(of("HEALTHCHECK", "daemon")[0].partition("CMD ")[2])[0] in scripts()


# ------------------------------------------------------------------------------------------------------------- compose


def services() -> dict[str, Any]:
    return COMPOSE["services"]


def test_services_are_built_from_stages_and_wait_for_each_other() -> None:
    for name, service in services().items():
        if "build" in service:
            assert service["build"]["target"] in STAGES
            assert (ROOT / service["build"]["context"] / "Dockerfile").is_file()
        assert set(service.get("depends_on", {})) <= services().keys(), name
        volumes = [volume.partition(":") for volume in service["volumes"]]
        assert {source for source, _, _ in volumes} <= COMPOSE["volumes"].keys()
    assert services()["page"]["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}
    assert services()["daemon"]["volumes"] == services()["page"]["volumes"] == [f"drirl:{APP}/.drirl"]


def test_the_page_is_published_on_this_machine_alone_and_the_database_not_at_all() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    (port,) = of("EXPOSE", "page")
    assert published == {"page": [f"127.0.0.1:{port}:{port}"]}


def test_the_history_is_in_the_database_and_the_password_in_no_file() -> None:
    for name in ("prepare", "page", "daemon"):
        variables = services()[name]["environment"]
        assert set(variables) <= {POSTGRES_VARIABLE, CONFIG_VARIABLE, "HF_TOKEN"}
        user, place = re.fullmatch(
            r"postgresql://(\w+):\$\{POSTGRES_PASSWORD:\?[^}]+\}@(\w+):5432/dagster", variables[POSTGRES_VARIABLE]
        ).groups()  # type: ignore[union-attr]
        assert (user, place) == (services()["postgres"]["environment"]["POSTGRES_USER"], "postgres")
        assert services()[name]["cap_drop"] == ["ALL"]
    assert services()["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ".env" in ignored


def test_the_command_that_prepares_is_one_of_ours() -> None:
    command = services()["prepare"]["command"]
    assert command[-1] == 'exec drirl doctor "$$DRIRL_CONFIG" --fetch'
    from typer.main import get_command

    from pipeline.cli.main import app

    doctor = get_command(app).commands["doctor"]  # type: ignore[attr-defined]
    assert "--fetch" in [option for parameter in doctor.params for option in parameter.opts]


# ---------------------------------------------------------------------------------------------------------- kubernetes


@pytest.fixture
def cluster(tmp_path: Path) -> Config:
    """The example's configuration, at its place beside the demo's."""
    for file in (ROOT / "configs/demo.yaml", ROOT / "docs/examples/kubernetes/align.yaml"):
        shutil.copy(file, tmp_path)
    return load_config(tmp_path / "align.yaml")


def test_pods_of_the_code_and_of_steps_have_the_same_image_secrets_and_claim(cluster: Config) -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    pods = cluster.execution.kubernetes
    assert f"{deployment['image']['repository']}:{deployment['image']['tag']}" == pods.image
    assert [secret["name"] for secret in deployment["envSecrets"]] == list(pods.env_secrets)
    (volume,), (mount,) = deployment["volumes"], deployment["volumeMounts"]
    assert volume["persistentVolumeClaim"]["claimName"] == pods.claim
    assert (volume["name"], mount["mountPath"]) == (mount["name"], pods.mount)
    steps = pod_settings(cluster)
    assert steps["volume_mounts"] == [{"name": "artifacts", "mount_path": mount["mountPath"]}]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    for place in (cluster.root, cluster.models.cache):
        assert place.startswith(f"{pods.mount}/")
    assert deployment["env"] == {CONFIG_VARIABLE: f"{APP}/configs/align.yaml"}


def test_the_chart_loads_the_code_location_of_the_image() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    arguments = deployment["dagsterApiGrpcArgs"]
    location = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"][0]["python_module"]
    assert arguments[arguments.index("--module-name") + 1] == location["module_name"]
    assert arguments[arguments.index("--working-directory") + 1] == APP
    assert deployment["podSecurityContext"]["runAsUser"] == int(of("USER", "runtime")[0].partition(":")[0])
    assert set(VALUES) == PARTS_OF_CHART
    assert VALUES["runLauncher"]["type"] == "K8sRunLauncher"
    assert VALUES["ingress"] == {"enabled": False}
    extras = next(line for line in of("ARG", "build") if line.startswith("EXTRAS=")).partition("=")[2].split(",")
    assert {"kubernetes", "postgres"} <= set(extras)


def test_the_chart_is_that_of_the_installed_dagster() -> None:
    head = (ROOT / "docs/examples/kubernetes/values.yaml").read_text(encoding="utf-8")
    pinned = re.search(r"^dagster==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None and f"--version {pinned[1]} " in head


def test_no_password_is_written_down() -> None:
    for name in ("values.yaml", "align.yaml"):
        text = (ROOT / "docs/examples/kubernetes" / name).read_text(encoding="utf-8")
        assert not re.search(r"(?im)^\s*\w*password:\s*\S", text)


@pytest.mark.long
def test_the_commands_of_the_image_run_on_what_it_copies(tmp_path: Path) -> None:
    """Without an engine: the copied paths at one place, and the environment of the tests in place of the image's."""
    for line in of("COPY", "build"):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / source if target == "./" else tmp_path / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), CONFIG_VARIABLE: str(tmp_path / "configs" / "demo.yaml")}
    variables["DAGSTER_HOME"] = str(tmp_path / ".drirl" / "dagster_home")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", *words]
        return subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    examined = run("pipeline.cli", "doctor")  # the models may be missing here; `--fetch` gets them
    assert "dagster" in examined.stdout, examined.stderr
    assert (tmp_path / ".drirl" / "dagster_home" / "dagster.yaml").is_file()
    for words in (
        ["pipeline.cli", "plan", "--only", "prompt_pool"],
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
    ):
        done = run(*words)
        assert done.returncode == 0, done.stderr
